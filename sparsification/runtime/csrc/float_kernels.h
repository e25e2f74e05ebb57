// Data structures of the fp32 kernels.
//
// Tokens lie in the lanes of vectors, as in the int8 kernels (kernels.h). A tile of kFloatTokens tokens is transposed
// slice by slice into a panel, which stays in the first-level cache while all rows of the weight are read: a non-zero
// weight is broadcast and multiplied by its input of all tokens. Each sum starts with the bias and adds its products in
// the order of the inputs, by fused multiply-adds, so that all instruction sets give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr int kFloatTokens = 64;     // in a tile
constexpr int kFloatSlice = 128;     // inputs in a slice: 32 KB of a panel
constexpr int kFloatPartRows = 64;   // outputs in a part: what threads share out

// A sparse weight as the kernel reads it. In each part and slice, rows are ordered by their number of weights and taken
// two at a time: a sum has to wait for the one before it, those of another row do not. The shorter row of a pair is
// filled up with zeros.
struct FloatWeight {
  int64_t inputs, outputs, slices, parts;
  const uint8_t* order;      // [slices][parts][kFloatPartRows] which row of the part comes next
  const uint8_t* counts;     // [slices][parts][kFloatPartRows / 2] weights of each row of a pair
  const uint32_t* first;     // [slices][parts] the first pair of weights
  const uint16_t* offsets;   // [pairs of weights][2] where in the slice's panel a weight's inputs are, in bytes
  const float* values;       // [pairs of weights][2]
};

struct FloatLinear {
  FloatWeight weight;
  const float* bias;  // [parts * kFloatPartRows]
  bool gelu;
};

// Of a tile: its panel, and the sums of some parts; in fp32 numbers.
static inline size_t float_panel_size(const FloatWeight& weight) { return weight.slices * kFloatSlice * kFloatTokens; }
static inline size_t float_sums_size(int64_t parts) { return parts * kFloatPartRows * kFloatTokens; }

struct FloatAttention {
  const float *query, *key, *value;              // [batch, length, row stride], the heads one after another
  int64_t query_stride, key_stride, value_stride;
  const float* mask;                             // added to the scores
  int64_t mask_batch_stride, mask_query_stride;  // 0 where it is the same for all
  int64_t length, heads, head_size;
  float score_scale;
  float* output;                                 // [batch, length, heads * head_size]
};

static inline int64_t float_padded(int64_t size) { return (size + 7) / 8 * 8; }
static inline size_t float_attention_scratch(const FloatAttention& a) {
  size_t keys = float_padded(a.length), size = float_padded(a.head_size);
  return sizeof(float) * 2 * (keys * kFloatTokens + size * kFloatTokens + keys * size);
}
