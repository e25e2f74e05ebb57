// Data structures and memory layout of the kernels: shared by the code for each CPU and by the selection among them.
//
// Tokens lie in the lanes of a vector, and a lane's four bytes are four adjacent inputs of its token. One instruction
// multiplies them by four weights, the same for all tokens, and adds the products to each token's sum. A 1x4 block of
// weights is one such instruction for 16 tokens, so the work is proportional to the number of non-zero blocks, whatever
// their pattern. In softmax, queries lie in the lanes and keys follow each other: no sum runs across a vector.
//
// A tile of kTokens tokens is first transposed into a panel: for each group of four inputs, kTokens times four bytes.
// Slices of a panel, at most kSliceGroups groups, stay in the first-level cache while all rows of the weight are read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "float_kernels.h"

constexpr int kTokens = 64;                    // in a tile
constexpr int kGroupBytes = 4 * kTokens;       // of a panel: four inputs of each token
constexpr int kOffsetUnit = 32;                // kGroupBytes of the smallest tile: 8 tokens
constexpr int kSliceGroups = 200;              // in a slice: 50 KB of a panel
constexpr int kPartRows = 64;                  // outputs in a part: 16 KB of sums
constexpr int kStep = 4;                       // blocks that the innermost loop takes at once
constexpr int64_t kMaxInputs = 65536;          // 255 * 128 * 65536 fits in an int32
constexpr int64_t kMaxKeys = 32768;            // 255 * 255 * 32768, too

// Scale and zero point of a uint8 tensor, and what is derived from them.
struct QuantParams {
  float scale, reciprocal, low, high;  // low and high: the smallest and largest value
  int32_t zero;
};
static inline QuantParams make_quant_params(float scale, int zero) {
  return {scale, 1.0f / scale, (float)-zero * scale, (float)(255 - zero) * scale, zero};
}

// How the sums of a Linear layer become its output. All arrays are as long as the padded outputs.
struct Epilogue {
  const float* scale;  // of the sums
  const float* bias;
  bool gelu;
  const QuantParams* output_params; // null: the output stays in fp32
};

// A sparse weight as the kernels read it. Parts of kPartRows outputs, slices of slice_groups groups of inputs; in each,
// rows are ordered by their number of blocks, so that the branch at a row's end is predicted. They are taken in pairs,
// whose blocks take turns: a sum has to wait for the one before it, those of another row do not. Blocks of zeros fill
// the shorter row up.
struct SparseWeight {
  int64_t inputs, outputs;
  int64_t groups, slice_groups, slices, parts;
  const int32_t* row_sums;    // [parts * kPartRows] of the weights
  const uint16_t* order;      // [slices][parts][kPartRows] which row of the part comes next
  const uint16_t* steps;      // [slices][parts][kPartRows / 2] how many times kStep blocks a pair has
  const uint32_t* first;      // [slices][parts] its first block
  const uint16_t* offsets;    // [blocks] where in the slice's panel a block's inputs are: group * kOffsetUnit
  const int32_t* values;      // [blocks] its four weights
};

struct Linear {
  SparseWeight weight;
  Epilogue epilogue;
  int input_zero;
};

// A sparse weight for CPUs that pick bytes of a vector by index. Here 16 outputs lie in the lanes, and activations stay
// as they are. In a step each output takes any four of 64 adjacent inputs, its window: unstructured zeros cost no more
// than blocks. Outputs are ordered by their number of weights, because the fullest of 16 decides how many steps there
// are. Groups of kWindowLanes outputs, slices of slice_inputs inputs.
struct WindowWeight {
  int64_t inputs, outputs;
  int64_t slice_inputs, slices, groups;
  const uint32_t* order;     // [groups][kWindowLanes] the output of each lane; null where it is the lane itself
  const int32_t* row_sums;   // [groups][kWindowLanes] of the weights
  const uint32_t* first;     // [slices][groups] its first step, and one more
  const uint16_t* windows;   // [steps] where in the slice a window begins
  const uint8_t* picks;      // [steps][kWindowBytes] four of the window's inputs for each output, 64-byte aligned
  const int8_t* values;      // [steps][kWindowBytes] their weights, too
};
constexpr int kWindowLanes = 16, kWindowBytes = 64;
constexpr int kWindowTokens = 16;            // that take turns: a step is loaded once for them
constexpr int kWindowSliceInputs = 1536;     // at most: 24 KB of the tokens' inputs

// How its sums become outputs; see Epilogue.
struct LaneEpilogue {
  const float *scale, *bias;
  bool gelu;
  const float *output_scale, *output_reciprocal, *output_low, *output_high;  // null: the output stays in fp32
  const int32_t* output_zero;
};

struct WindowLinear {
  WindowWeight weight;
  LaneEpilogue epilogue;
  int input_zero;
};

struct Attention {
  const uint8_t *query, *key, *value;  // [batch, length, row stride], the heads one after another
  int64_t query_stride, key_stride, value_stride;
  uint8_t key_flip, value_flip;        // 0x80 if stored as uint8, 0 if as int8
  const float* mask;                   // added to the scores
  int64_t mask_batch_stride, mask_query_stride;  // 0 where it is the same for all
  int64_t length, heads, head_size;
  int query_zero, key_zero, value_zero;
  float score_scale, context_scale;
  QuantParams probability_params, output_params;
  uint8_t* output;                     // [batch, length, heads * head_size]
};

struct AddNorm {
  const float *a, *b;                  // [rows, size] and [b_rows, size]: b repeats itself
  int64_t b_rows;
  const float *gamma, *beta;
  int64_t size;
  float epsilon;
  float* output;                       // [rows, size]
  uint8_t* integers;                   // the same, quantized; null: not wanted
  QuantParams output_params;
};

// The kernels for one kind of CPU. `scratch` is 64-byte aligned and as large as the function beside each says.
struct Kernels {
  const char* name;
  // Whether the product of blocks adds those of two adjacent weights in 16 bits: blocks must not overflow there.
  bool adds_pairs;
  // A tile's panel, of panel_size bytes, and its outputs of the parts from first_part on; sums: sums_size bytes.
  void (*linear_panel)(const SparseWeight&, const uint8_t* x, int64_t tokens, int64_t tile, uint8_t* panel);
  void (*linear)(const Linear&, const uint8_t* panel, int64_t tokens, int64_t tile, int64_t first_part,
                 int64_t end_part, void* output, int32_t* sums);
  // The same for kWindowTokens tokens and the groups from first_group on; all groups, if they are ordered. Null where
  // the CPU has no such instructions.
  void (*window_linear)(const WindowLinear&, const uint8_t* x, int64_t tokens, int64_t tile, int64_t first_group,
                        int64_t end_group, void* output, void* scratch);
  // A head of a row of the batch.
  void (*attention)(const Attention&, int64_t batch, int64_t head, void* scratch);
  void (*add_norm)(const AddNorm&, int64_t first_row, int64_t end_row);
  // In fp32 (float_kernels.h). A slice of a tile's panel [inputs][kFloatTokens], undefined behind the last token.
  void (*float_panel)(const float* x, int64_t inputs, int64_t tokens, int64_t tile, int64_t slice, float* panel);
  // sums[row][token] of the parts from first_part on, for the first `tokens` tokens of a panel.
  void (*float_linear)(const FloatLinear&, const float* panel, int64_t tokens, int64_t first_part, int64_t end_part,
                       float* sums);
  // output[token][row] of sums[row][token].
  void (*float_output)(const float* sums, int64_t tokens, int64_t rows, float* output, int64_t stride);
  void (*float_attention)(const FloatAttention&, int64_t batch, int64_t head, void* scratch);
};

static inline size_t panel_size(const SparseWeight& weight) { return (size_t)weight.groups * kGroupBytes; }
static inline size_t sums_size(int64_t parts) { return (size_t)parts * kPartRows * kTokens * 4; }
// A token's bytes of a slice, one after another in an odd number of cache lines: adjacent tokens lie in different sets.
static inline int64_t window_stride(const WindowWeight& weight) {
  int64_t lines = (weight.slice_inputs + 63) / 64;
  return 64 * (lines | 1);
}
static inline size_t window_scratch(const WindowWeight& weight, int64_t groups) {
  int64_t sums = (weight.slices > 1 ? groups : 0) + (weight.order ? weight.groups : 0);
  return (size_t)(kWindowTokens * (window_stride(weight) + sums * 4 * kWindowLanes));
}
static inline size_t attention_scratch(const Attention& a) {
  size_t keys = (a.length + 7) / 8 * 8, size = (a.head_size + 15) / 16 * 16;
  // keys and values in bytes, their sums, the scores and mask of 16 queries, probabilities, queries
  return 2 * keys * size + 4 * (keys + size) + 2 * 64 * keys + 16 * keys + 16 * size + 1024;
}
