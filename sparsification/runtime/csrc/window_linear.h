// The kernel of a sparse Linear layer in windows: 16 tokens times the steps of some of the outputs.
#pragma once

#include "panel.h"

namespace {

#if defined(__AVX512VBMI__)
INLINE Ints pick(const void* window, Ints picks) {
  return (Ints)_mm512_permutexvar_epi8((__m512i)picks, _mm512_loadu_si512(window));
}

INLINE Quantizer lane_quantizer(const LaneEpilogue& epilogue, int64_t lane) {
  return {(Floats)load(epilogue.output_scale + lane), (Floats)load(epilogue.output_reciprocal + lane),
          (Floats)load(epilogue.output_low + lane), (Floats)load(epilogue.output_high + lane),
          load(epilogue.output_zero + lane) - 0x4B400000};
}

// Sums of 16 adjacent outputs, one vector for each token, as outputs.
INLINE void finish_group(const WindowLinear& linear, const Ints sums[kWindowTokens], int64_t first, int64_t token,
                         int64_t tokens, void* output) {
  const LaneEpilogue& epilogue = linear.epilogue;
  int64_t outputs = linear.weight.outputs;
  __mmask16 used = (__mmask16)((1u << least(outputs - first, kWindowLanes)) - 1);
  Floats scale = (Floats)load(epilogue.scale + first), bias = (Floats)load(epilogue.bias + first);
  bool is_quantized = epilogue.output_scale;
  Quantizer params = is_quantized ? lane_quantizer(epilogue, first) : Quantizer{};
  for (int64_t at = 0; at < tokens; at++) {
    Floats value = numbers(sums[at]) * scale;
    value = value + bias;
    if (epilogue.gelu) value = gelu(value);
    int64_t to = (token + at) * outputs + first;
    if (is_quantized) {
      __m128i bytes = _mm512_cvtepi32_epi8((__m512i)quantize(value, params));
      _mm_mask_storeu_epi8((uint8_t*)output + to, used, bytes);
    } else {
      _mm512_mask_storeu_ps((float*)output + to, used, value);
    }
  }
}

void window_linear(const WindowLinear& linear, const uint8_t* x, int64_t tokens, int64_t tile, int64_t first_group,
                   int64_t end_group, void* output, void* scratch) {
  const WindowWeight& weight = linear.weight;
  int64_t token = tile * kWindowTokens, count = least(tokens - token, kWindowTokens), stride = window_stride(weight);
  uint8_t* panel = (uint8_t*)scratch;
  Ints* kept = (Ints*)(panel + kWindowTokens * stride);  // [group][token] between slices
  Ints* rows = kept + (weight.slices > 1 ? (end_group - first_group) * kWindowTokens : 0);  // [output], a lane a token
  const uint8_t *four = panel + 4 * stride, *eight = panel + 8 * stride, *twelve = panel + 12 * stride;
  for (int64_t slice = 0; slice < weight.slices; slice++) {
    int64_t begin = slice * weight.slice_inputs, length = least(weight.inputs - begin, weight.slice_inputs);
    for (int64_t at = 0; at < count; at++)
      memcpy(panel + at * stride, x + (token + at) * weight.inputs + begin, length);
    for (int64_t group = first_group; group < end_group; group++) {
      Ints sums[kWindowTokens], *between = kept + (group - first_group) * kWindowTokens;
      Ints start = load(weight.row_sums + group * kWindowLanes) * -linear.input_zero;
#pragma GCC unroll 16
      for (int at = 0; at < kWindowTokens; at++) sums[at] = slice == 0 ? start : between[at];
      const uint32_t* steps = weight.first + slice * weight.groups + group;
      for (int64_t step = steps[0]; step < steps[1]; step++) {
        Ints picks = load(weight.picks + step * kWindowBytes), values = load(weight.values + step * kWindowBytes);
        int64_t window = weight.windows[step];
#pragma GCC unroll 4
        for (int at = 0; at < 4; at++) {
          sums[at] = dot(sums[at], pick(panel + window + at * stride, picks), values);
          sums[4 + at] = dot(sums[4 + at], pick(four + window + at * stride, picks), values);
          sums[8 + at] = dot(sums[8 + at], pick(eight + window + at * stride, picks), values);
          sums[12 + at] = dot(sums[12 + at], pick(twelve + window + at * stride, picks), values);
        }
      }
      if (slice + 1 < weight.slices) {
#pragma GCC unroll 16
        for (int at = 0; at < kWindowTokens; at++) between[at] = sums[at];
      } else if (!weight.order) {
        finish_group(linear, sums, group * kWindowLanes, token, count, output);
      } else {
        transpose(sums);
#pragma GCC unroll 16
        for (int lane = 0; lane < kWindowLanes; lane++) rows[weight.order[group * kWindowLanes + lane]] = sums[lane];
      }
    }
  }
  if (!weight.order) return;
  for (int64_t first = 0; first < weight.outputs; first += kWindowLanes) {
    Ints sums[kWindowTokens];
#pragma GCC unroll 16
    for (int lane = 0; lane < kWindowLanes; lane++) sums[lane] = rows[first + lane];
    transpose(sums);
    finish_group(linear, sums, first, token, count, output);
  }
}
#else
constexpr decltype(Kernels::window_linear) window_linear = nullptr;
#endif

}  // namespace
