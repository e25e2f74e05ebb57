// The kernel of a sparse Linear layer: one tile of tokens times the blocks of some of the outputs.
#pragma once

#include "panel.h"

namespace {

// sums[row][token] of one part and slice, for `vectors` vectors of tokens; in the first slice they start anew.
template <int vectors>
void multiply(const Linear& linear, int64_t slice, int64_t part, const uint8_t* panel, int32_t* sums) {
  const SparseWeight& weight = linear.weight;
  int64_t at = slice * weight.parts + part;
  const uint16_t* order = weight.order + at * kPartRows;
  const uint16_t* steps = weight.steps + at * kPartRows;
  const uint16_t* offsets = weight.offsets + weight.first[at];
  const int32_t* values = weight.values + weight.first[at];
  const int32_t* row_sums = weight.row_sums + part * kPartRows;
  for (int index = 0; index < kPartRows; index++) {
    int row = order[index];
    int32_t* to = sums + row * kTokens;
    // A sum has to wait for the one before it: where there are few, blocks take turns with two of each.
    constexpr int sets = vectors < 4 ? 2 : 1;
    Ints total[sets][vectors]{};
    if (slice == 0) {
      for (int v = 0; v < vectors; v++) total[0][v] = all((kShift - linear.input_zero) * row_sums[row]);
    } else {
      for (int v = 0; v < vectors; v++) total[0][v] = load(to + v * kLanes);
    }
    for (int step = steps[index]; step > 0; step--) {
#pragma GCC unroll 4
      for (int block = 0; block < kStep; block++) {
        const uint8_t* inputs = panel + offsets[block];
        Ints four = all(values[block]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
          Ints& sum = total[block % sets][v];
          sum = dot(sum, load(inputs + v * 4 * kLanes), four);
        }
      }
      offsets += kStep;
      values += kStep;
    }
    for (int v = 0; v < vectors; v++)
      store(to + v * kLanes, sets == 2 ? total[0][v] + total[sets - 1][v] : total[0][v]);
  }
}

// The outputs from `first` on, 16 at most, for the tokens of one vector. sums[row][token], row 0 being the first.
INLINE void finish(const Linear& linear, const int32_t* sums, int64_t first, int64_t token, int64_t tokens,
                   void* output) {
  const Epilogue& epilogue = linear.epilogue;
  int64_t outputs = linear.weight.outputs, count = least(outputs - first, 16);
  Floats values[16];
  for (int row = 0; row < 16; row++) {
    Floats value = numbers(load(sums + row * kTokens)) * all(epilogue.scale[first + row]);
    value = value + all(epilogue.bias[first + row]);
    values[row] = epilogue.gelu ? gelu(value) : value;
  }
  if (epilogue.output_params) {
    Ints integers[16];
    for (int row = 0; row < 16; row++)
      integers[row] = quantize(values[row], quantizer(epilogue.output_params[first + row]));
    store_bytes(integers, (uint8_t*)output + token * outputs + first, outputs, tokens, count);
    return;
  }
  for (int from = 0; from < count; from += kLanes) {
    Ints rows[kLanes];
    for (int lane = 0; lane < kLanes; lane++) rows[lane] = (Ints)values[from + lane];
    transpose(rows);
    float* to = (float*)output + token * outputs + first + from;
    int64_t rest = least(count - from, kLanes);
    for (int lane = 0; lane < least(tokens, kLanes); lane++) {
      if (rest == kLanes) {
        store(to + lane * outputs, rows[lane]);
      } else {
        memcpy(to + lane * outputs, &rows[lane], 4 * rest);
      }
    }
  }
}

void linear(const Linear& linear, const uint8_t* x, int64_t tokens, int64_t tile, int64_t first_part, int64_t end_part,
            void* output, void* scratch) {
  const SparseWeight& weight = linear.weight;
  int64_t token = tile * kTokens, count = least(tokens - token, kTokens);
  uint8_t* panel = (uint8_t*)scratch;
  int32_t* sums = (int32_t*)(panel + weight.groups * kGroupBytes);
  for (int64_t lane = 0; lane < kTokens; lane += kLanes)
    transpose_tokens(x + (token + lane) * weight.inputs, weight.inputs, count - lane, weight.inputs, panel + 4 * lane,
                     kGroupBytes);
  bool half = kVectors > 1 && count <= kTokens / 2;
  // With one slice, a part's sums are finished while they are in the cache. Else all parts go through a slice of the
  // panel while that is.
  int64_t together = weight.slices == 1 ? 1 : end_part - first_part;
  for (int64_t first = first_part; first < end_part; first += together) {
    for (int64_t slice = 0; slice < weight.slices; slice++) {
      const uint8_t* inputs = panel + slice * weight.slice_groups * kGroupBytes;
      for (int64_t part = first; part < first + together; part++) {
        int32_t* to = sums + (part - first) * kPartRows * kTokens;
        if (half) {
          multiply<(kVectors > 1 ? kVectors / 2 : 1)>(linear, slice, part, inputs, to);
        } else {
          multiply<kVectors>(linear, slice, part, inputs, to);
        }
      }
    }
    int64_t end = least((first + together) * kPartRows, weight.outputs);
    for (int64_t row = first * kPartRows; row < end; row += 16)
      for (int64_t lane = 0; lane < count; lane += kLanes)
        finish(linear, sums + (row - first * kPartRows) * kTokens + lane, row, token + lane,
               least(count - lane, kLanes), output);
  }
}

}  // namespace
