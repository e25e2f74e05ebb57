// The kernel of a residual sum with LayerNormalization, and with quantization where that is wanted.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace {

// Sums go through 4 times 16 lanes on every CPU, so that all give the same bits, and none waits for the one before it.
constexpr int kSixteen = 16 / kLanes;
constexpr int kSums = 4;

INLINE float total(const Floats sums[kSums][kSixteen]) {
  Floats lanes[kSixteen];
  for (int v = 0; v < kSixteen; v++) lanes[v] = (sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v]);
  alignas(64) float all_lanes[16];
  memcpy(all_lanes, lanes, sizeof all_lanes);
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; lane++) all_lanes[lane] += all_lanes[lane + width];
  return all_lanes[0];
}

// 16 numbers, or `count` of them and then `rest`. A copy of a size that is not known would be a call.
INLINE void load16(const float* from, int64_t count, float rest, Floats to[kSixteen]) {
  if (count >= 16) {
    memcpy(to, from, 64);
  } else {
    float values[16];
    for (int lane = 0; lane < 16; lane++) values[lane] = lane < count ? from[lane] : rest;
    memcpy(to, values, 64);
  }
}

template <typename T>
INLINE void store16(T* to, int64_t count, const void* from) {
  if (count >= 16) {
    memcpy(to, from, 16 * sizeof(T));
  } else {
    T values[16];
    memcpy(values, from, sizeof values);
    for (int lane = 0; lane < count; lane++) to[lane] = values[lane];
  }
}

void add_norm(const AddNorm& norm, int64_t first_row, int64_t end_row) {
  int64_t size = norm.size;
  const Quantizer output_quantizer = quantizer(norm.output_params);
  for (int64_t row = first_row; row < end_row; row++) {
    const float *a = norm.a + row * size, *b = norm.b + row % norm.b_rows * size;
    float* out = norm.output + row * size;
    Floats sums[kSums][kSixteen]{}, squares[kSums][kSixteen]{};
    for (int64_t start = 0; start < size; start += 16 * kSums) {
#pragma GCC unroll 4
      for (int part = 0; part < kSums; part++) {
        int64_t i = start + 16 * part;
        if (i >= size) break;
        Floats x[kSixteen], y[kSixteen];
        load16(a + i, size - i, 0.0f, x);
        load16(b + i, size - i, 0.0f, y);
        for (int v = 0; v < kSixteen; v++) {
          x[v] += y[v];
          sums[part][v] += x[v];
        }
        store16(out + i, size - i, x);
      }
    }
    float mean = total(sums) / (float)size;
    for (int64_t start = 0; start < size; start += 16 * kSums) {
#pragma GCC unroll 4
      for (int part = 0; part < kSums; part++) {
        int64_t i = start + 16 * part;
        if (i >= size) break;
        Floats x[kSixteen];
        load16(out + i, size - i, mean, x);
        for (int v = 0; v < kSixteen; v++) {
          Floats difference = x[v] - mean;
          squares[part][v] = fma(difference, difference, squares[part][v]);
        }
      }
    }
    float factor = 1.0f / __builtin_sqrtf(total(squares) / (float)size + norm.epsilon);
    for (int64_t i = 0; i < size; i += 16) {
      Floats x[kSixteen], gamma[kSixteen], beta[kSixteen];
      load16(out + i, size - i, mean, x);
      load16(norm.gamma + i, size - i, 0.0f, gamma);
      load16(norm.beta + i, size - i, 0.0f, beta);
      for (int v = 0; v < kSixteen; v++) x[v] = fma((x[v] - mean) * factor, gamma[v], beta[v]);
      store16(out + i, size - i, x);
      if (!norm.integers) continue;
      typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
      Bytes bytes[kSixteen];
      for (int v = 0; v < kSixteen; v++)
        bytes[v] = __builtin_convertvector(quantize(x[v], output_quantizer), Bytes);
      store16(norm.integers + row * size + i, size - i, bytes);
    }
  }
}

}  // namespace
