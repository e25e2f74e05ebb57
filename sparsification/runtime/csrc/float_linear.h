// The kernels of a sparse Linear layer in fp32: one tile of tokens times the non-zero weights of some of the outputs.
#pragma once

#include "float_kernels.h"
#include "panel.h"

namespace {

constexpr int kRowVectors = kLanes == 4 ? 8 : 4;  // of each of two rows: their sums stay in registers

INLINE void add_product(Floats sums[kRowVectors], const float* panel, uint16_t offset, Floats weight) {
  const char* inputs = (const char*)panel + offset;
#pragma GCC unroll 8
  for (int v = 0; v < kRowVectors; v++) sums[v] = fma((Floats)load(inputs + v * 4 * kLanes), weight, sums[v]);
}

// sums[row][token] of a part, after one more slice. panel, sums: kRowVectors vectors of tokens. Not inlined: the
// innermost loop needs all registers.
__attribute__((noinline)) void add_slice(const FloatLinear& linear, int64_t slice, int64_t part, const float* panel,
                                         float* sums) {
  const FloatWeight& weight = linear.weight;
  int64_t at = slice * weight.parts + part;
  const uint8_t *order = weight.order + at * kFloatPartRows, *counts = weight.counts + at * kFloatPartRows / 2;
  const uint16_t* offsets = weight.offsets + 2 * (int64_t)weight.first[at];
  const float* values = weight.values + 2 * (int64_t)weight.first[at];
  const float* bias = linear.bias + part * kFloatPartRows;
  for (int pair = 0; pair < kFloatPartRows; pair += 2) {
    float* to[] = {sums + order[pair] * kFloatTokens, sums + order[pair + 1] * kFloatTokens};
    Floats total[2][kRowVectors];
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++)
      for (int v = 0; v < kRowVectors; v++)
        total[row][v] = slice == 0 ? all(bias[order[pair + row]]) : (Floats)load(to[row] + v * kLanes);
    int count = counts[pair / 2];
    for (; count >= 2; count -= 2, offsets += 4, values += 4) {
      Ints four = load_four(values);
      uint64_t where = load_offsets(offsets);
      add_product(total[0], panel, (uint16_t)where, (Floats)one_of<0>(four));
      add_product(total[1], panel, (uint16_t)(where >> 16), (Floats)one_of<1>(four));
      add_product(total[0], panel, (uint16_t)(where >> 32), (Floats)one_of<2>(four));
      add_product(total[1], panel, (uint16_t)(where >> 48), (Floats)one_of<3>(four));
    }
    if (count > 0) {
      add_product(total[0], panel, *offsets++, all(*values++));
      add_product(total[1], panel, *offsets++, all(*values++));
    }
#pragma GCC unroll 2
    for (int row = 0; row < 2; row++)
      for (int v = 0; v < kRowVectors; v++) store(to[row] + v * kLanes, (Ints)total[row][v]);
  }
}

// to[column][row] = from[row][column]. With `pad`, each row of `to` is filled up to a whole vector.
template <bool pad>
void transpose_floats(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
  for (int64_t row = 0; row < rows; row += kLanes)
    for (int64_t column = 0; column < columns; column += kLanes) {
      int64_t height = least(rows - row, kLanes), width = least(columns - column, kLanes);
      const float* square = from + row * from_stride + column;
      float* transposed = to + column * to_stride + row;
      Ints lines[kLanes];
      if (height == kLanes && width == kLanes) {
        for (int lane = 0; lane < kLanes; lane++) lines[lane] = load(square + lane * from_stride);
        transpose(lines);
        for (int lane = 0; lane < kLanes; lane++) store(transposed + lane * to_stride, lines[lane]);
        continue;
      }
      for (int lane = 0; lane < kLanes; lane++) {
        lines[lane] = Ints{};
        if (lane < height) memcpy(&lines[lane], square + lane * from_stride, 4 * width);
      }
      transpose(lines);
      for (int lane = 0; lane < width; lane++)
        memcpy(transposed + lane * to_stride, &lines[lane], pad ? 4 * kLanes : 4 * height);
    }
}

// panel[input][token] = x[token][input], for up to kFloatTokens tokens.
void transpose_in(const float* x, int64_t stride, int64_t tokens, int64_t inputs, float* panel) {
  for (int64_t token = 0; token < tokens; token += kLanes)
    transpose_floats<true>(x + token * stride, stride, least(tokens - token, kLanes), inputs, panel + token,
                           kFloatTokens);
}

void float_output(const float* sums, int64_t tokens, int64_t rows, float* output, int64_t stride) {
  // A few tokens at a time: their lines of the output follow each other.
  for (int64_t token = 0; token < tokens; token += kLanes)
    transpose_floats<false>(sums + token, kFloatTokens, rows, least(tokens - token, kLanes), output + token * stride,
                            stride);
}

void float_panel(const float* x, int64_t inputs, int64_t tokens, int64_t tile, int64_t slice, float* panel) {
  int64_t token = tile * kFloatTokens, input = slice * kFloatSlice;
  transpose_in(x + token * inputs + input, inputs, least(tokens - token, kFloatTokens),
               least(inputs - input, kFloatSlice), panel + input * kFloatTokens);
}

void float_linear(const FloatLinear& linear, const float* panel, int64_t tokens, int64_t first_part, int64_t end_part,
                  float* sums) {
  constexpr int64_t kStep = kRowVectors * kLanes, kPartSize = kFloatPartRows * kFloatTokens;
  int64_t slices = linear.weight.slices;
  for (int64_t slice = 0; slice < slices; slice++)
    for (int64_t part = first_part; part < end_part; part++) {
      float* to = sums + (part - first_part) * kPartSize;
      for (int64_t lane = 0; lane < tokens; lane += kStep)
        add_slice(linear, slice, part, panel + slice * kFloatSlice * kFloatTokens + lane, to + lane);
      if (linear.gelu && slice == slices - 1)
        for (int64_t i = 0; i < kPartSize; i += kLanes) store(to + i, (Ints)gelu((Floats)load(to + i)));
    }
}

}  // namespace
