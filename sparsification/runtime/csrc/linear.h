// The kernels of a sparse Linear layer: a tile of tokens as a panel, and its product with the blocks of some outputs.
#pragma once

#include "panel.h"

namespace {

// Transposes a square of 32-bit elements and stores the first `count` rows, `bytes` of each, `stride` bytes apart.
INLINE void store_transposed(Ints rows[kLanes], uint8_t* to, int64_t stride, int64_t count, int64_t bytes) {
  transpose(rows);
  for (int64_t lane = 0; lane < least(count, kLanes); lane++) {
    if (bytes == 4 * kLanes) {
      store(to + lane * stride, rows[lane]);
    } else {
      memcpy(to + lane * stride, &rows[lane], bytes);
    }
  }
}

// A row's outputs in fp32, for the tokens of `count` vectors.
template <int count>
INLINE void finish(const Epilogue& epilogue, const int32_t* sums, int64_t row, Floats* values) {
  Floats scale = all(epilogue.scale[row]), bias = all(epilogue.bias[row]);
  for (int v = 0; v < count; v++) {
    values[v] = numbers(load(sums + v * kLanes)) * scale;
    values[v] = values[v] + bias;
  }
  if (epilogue.gelu)
    for (int v = 0; v < count; v++) values[v] = gelu(values[v]);
}

// A tile whose tokens fill `vectors` vectors; its panel and sums have no room for more.
template <int vectors>
struct Tile {
  static constexpr int kWidth = vectors * kLanes, kBytes = 4 * kWidth;  // tokens, and bytes of a group of inputs
  // Vectors of two rows, whose sums fit into the registers together.
  static constexpr int kAtOnce = vectors <= 4 ? vectors : vectors % 4 == 0 ? 4 : 3;

  static void transpose_panel(const uint8_t* x, int64_t inputs, int64_t tokens, uint8_t* panel) {
    for (int64_t lane = 0; lane < kWidth; lane += kLanes)
      transpose_tokens(x + lane * inputs, inputs, tokens - lane, inputs, panel + 4 * lane, kBytes);
  }

  INLINE void add_block(Ints sums[kAtOnce], const uint8_t* panel, uint16_t offset, Ints weights) {
    const uint8_t* inputs = panel + (size_t)offset * (kBytes / kOffsetUnit);
#pragma GCC unroll 8
    for (int v = 0; v < kAtOnce; v++) sums[v] = dot_of_fitting(sums[v], load(inputs + v * 4 * kLanes), weights);
  }

  // sums[row][token] of one part and slice, for kAtOnce vectors; in the first slice they start anew. Not inlined: the
  // innermost loop needs all registers.
  __attribute__((noinline)) static void multiply(const Linear& linear, int64_t slice, int64_t part,
                                                 const uint8_t* panel, int32_t* sums) {
    const SparseWeight& weight = linear.weight;
    int64_t at = slice * weight.parts + part;
    const uint16_t* order = weight.order + at * kPartRows;
    const uint16_t* steps = weight.steps + at * kPartRows / 2;
    const uint16_t* offsets = weight.offsets + weight.first[at];
    const int32_t* values = weight.values + weight.first[at];
    const int32_t* row_sums = weight.row_sums + part * kPartRows;
    for (int pair = 0; pair < kPartRows; pair += 2) {
      Ints total[2][kAtOnce];
#pragma GCC unroll 2
      for (int row = 0; row < 2; row++) {
        const int32_t* from = sums + order[pair + row] * kWidth;
        Ints start = all((kShift - linear.input_zero) * row_sums[order[pair + row]]);
        for (int v = 0; v < kAtOnce; v++) total[row][v] = slice == 0 ? start : load(from + v * kLanes);
      }
      for (int step = steps[pair / 2]; step > 0; step--, offsets += kStep, values += kStep) {
        Ints four = load_four(values);
        uint64_t where = load_offsets(offsets);
        add_block(total[0], panel, (uint16_t)where, one_of<0>(four));
        add_block(total[1], panel, (uint16_t)(where >> 16), one_of<1>(four));
        add_block(total[0], panel, (uint16_t)(where >> 32), one_of<2>(four));
        add_block(total[1], panel, (uint16_t)(where >> 48), one_of<3>(four));
      }
#pragma GCC unroll 2
      for (int row = 0; row < 2; row++)
        for (int v = 0; v < kAtOnce; v++) store(sums + order[pair + row] * kWidth + v * kLanes, total[row][v]);
    }
  }

  // The outputs first .. end as bytes, of sums[row][token], row 0 being the first; output: the first token's.
  static void finish_bytes(const Linear& linear, const int32_t* sums, int64_t first, int64_t end, int64_t tokens,
                           uint8_t* output) {
    const Epilogue& epilogue = linear.epilogue;
    int64_t outputs = linear.weight.outputs;
    Ints packed[vectors][kLanes];  // [token][four rows]
    for (int four = 0; four < kLanes; four++) {
      // First the numbers of all four rows, then their integers: the long chains of GELU overlap.
      Floats values[4][vectors];
      int64_t row = first + 4 * four;
#pragma GCC unroll 1
      for (int index = 0; index < 4; index++)
        finish<vectors>(epilogue, sums + (4 * four + index) * kWidth, row + index, values[index]);
      Ints bytes[vectors]{};
#pragma GCC unroll 4
      for (int index = 0; index < 4; index++) {
        Quantizer params = quantizer(epilogue.output_params[row + index]);
        for (int v = 0; v < vectors; v++) bytes[v] |= quantize(values[index][v], params) << (8 * index);
      }
      for (int v = 0; v < vectors; v++) packed[v][four] = bytes[v];
    }
    for (int v = 0; v < vectors; v++)
      store_transposed(packed[v], output + v * kLanes * outputs + first, outputs, tokens - v * kLanes,
                       least(end - first, 4 * kLanes));
  }

  // The same in fp32; a few tokens at a time, whose lines of the output follow each other.
  static void finish_floats(const Linear& linear, const int32_t* sums, int64_t first, int64_t end, int64_t tokens,
                            float* output) {
    int64_t outputs = linear.weight.outputs;
    for (int64_t token = 0; token < tokens; token += kLanes)
      for (int64_t row = first; row < end; row += kLanes) {
        Ints rows[kLanes];
#pragma GCC unroll 16
        for (int index = 0; index < kLanes; index++) {
          Floats value[1];
          finish<1>(linear.epilogue, sums + (row - first + index) * kWidth + token, row + index, value);
          rows[index] = (Ints)value[0];
        }
        store_transposed(rows, (uint8_t*)(output + token * outputs + row), 4 * outputs, tokens - token,
                         4 * least(end - row, kLanes));
      }
  }

  static void run(const Linear& linear, const uint8_t* panel, int64_t tokens, int64_t token, int64_t first_part,
                  int64_t end_part, void* output, int32_t* sums) {
    const SparseWeight& weight = linear.weight;
    // With one slice, a part's sums are finished while they are in the cache. Else all parts go through a slice of the
    // panel while that is.
    int64_t together = weight.slices == 1 ? 1 : end_part - first_part;
    for (int64_t first = first_part; first < end_part; first += together) {
      for (int64_t slice = 0; slice < weight.slices; slice++) {
        const uint8_t* inputs = panel + slice * weight.slice_groups * kBytes;
        for (int64_t part = first; part < first + together; part++)
          for (int lane = 0; lane < kWidth; lane += kAtOnce * kLanes)
            multiply(linear, slice, part, inputs + 4 * lane, sums + (part - first) * kPartRows * kWidth + lane);
      }
      int64_t begin = first * kPartRows, end = least(begin + together * kPartRows, weight.outputs);
      if (!linear.epilogue.output_params) {
        finish_floats(linear, sums, begin, end, tokens, (float*)output + token * weight.outputs);
        continue;
      }
      for (int64_t row = begin; row < end; row += 4 * kLanes)
        finish_bytes(linear, sums + (row - begin) * kWidth, row, end, tokens,
                     (uint8_t*)output + token * weight.outputs);
    }
  }
};

// Calls work(Tile) with the smallest tile that has room for the tokens: one of 64, 48, 32, 16 or 8, if a vector is that
// short.
template <int width, typename Work>
INLINE void with_tile(int64_t tokens, const Work& work) {
  constexpr int smaller = width > 32 ? width - 16 : width / 2;
  if constexpr (smaller >= kLanes && 4 * smaller >= kOffsetUnit) {
    if (tokens <= smaller) return with_tile<smaller>(tokens, work);
  }
  work(Tile<width / kLanes>());
}

void linear_panel(const SparseWeight& weight, const uint8_t* x, int64_t tokens, int64_t tile, uint8_t* panel) {
  int64_t token = tile * kTokens, count = least(tokens - token, kTokens);
  with_tile<kTokens>(count, [&](auto tile_of) {
    tile_of.transpose_panel(x + token * weight.inputs, weight.inputs, count, panel);
  });
}

void linear(const Linear& linear, const uint8_t* panel, int64_t tokens, int64_t tile, int64_t first_part,
            int64_t end_part, void* output, int32_t* sums) {
  int64_t token = tile * kTokens, count = least(tokens - token, kTokens);
  with_tile<kTokens>(count, [&](auto tile_of) {
    tile_of.run(linear, panel, count, token, first_part, end_part, output, sums);
  });
}

}  // namespace
