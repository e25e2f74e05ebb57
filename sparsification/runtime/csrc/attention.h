// The kernel of quantized attention: scores, softmax and context of one head of one row of the batch.
#pragma once

#include "panel.h"

namespace {

// Scores of 8 keys against the queries in the lanes, plus their mask; the largest of each query goes into `most`.
INLINE void score(const Attention& a, const uint8_t* keys, int64_t groups, const uint8_t* queries,
                  const int32_t* starts,
                  Ints query_start, const Floats* mask, Floats* scores, Floats& most) {
  Ints sums[8];
  for (int key = 0; key < 8; key++) sums[key] = query_start + starts[key];
  for (int64_t group = 0; group < groups; group++) {
    Ints query = load(queries + group * 4 * kLanes);
    for (int key = 0; key < 8; key++) {
      int32_t four;
      memcpy(&four, keys + (key * groups + group) * 4, 4);
      sums[key] = dot(sums[key], query, all(four));
    }
  }
  for (int key = 0; key < 8; key++) {
    scores[key] = numbers(sums[key]) * a.score_scale + mask[key];
    most = larger(most, scores[key]);
  }
}

// How many keys there are up to the last one that a mask [length] does not hide; all, if it hides all.
int64_t visible_keys(const float* mask, int64_t length) {
  int64_t keys = length;
  while (keys > 0 && mask[keys - 1] < -1e30f) keys--;
  return keys > 0 ? keys : length;
}

// A key's bytes as int8; gives their sum.
int32_t copy_key(const uint8_t* __restrict from, int64_t size, uint8_t flip, uint8_t* __restrict to) {
  int32_t sum = 0;
  for (int64_t c = 0; c < size; c++) {
    uint8_t byte = from[c] ^ flip;
    to[c] = byte;
    sum += (int8_t)byte;
  }
  return sum;
}

// The values of up to four keys as int8, those of a channel side by side; adds them to the channels' sums.
void weave_values(const uint8_t* __restrict from, int64_t stride, int64_t count, int64_t size, uint8_t flip,
                  uint32_t* __restrict to, int32_t* __restrict sums) {
  for (int64_t k = 0; k < count; k++) {
    const uint8_t* __restrict row = from + k * stride;
    int shift = 8 * (int)k;
    for (int64_t c = 0; c < size; c++) {
      uint8_t byte = row[c] ^ flip;
      to[c] |= (uint32_t)byte << shift;
      sums[c] += (int8_t)byte;
    }
  }
}

void attention(const Attention& a, int64_t batch, int64_t head, void* scratch) {
  int64_t size = a.head_size, groups = (size + 3) / 4, padded = (size + 15) / 16 * 16;
  const float* mask = a.mask + batch * a.mask_batch_stride;
  // Hidden keys have probability 0, which is an integer of 0 only where the zero point is 0.
  bool skip = a.mask_query_stride == 0 && a.probability_params.zero == 0;
  int64_t keys = skip ? visible_keys(mask, a.length) : a.length, padded_keys = (a.length + 7) / 8 * 8;
  const uint8_t* query = a.query + batch * a.length * a.query_stride + head * size;
  const uint8_t* key = a.key + batch * a.length * a.key_stride + head * size;
  const uint8_t* value = a.value + batch * a.length * a.value_stride + head * size;

  Floats* scores = (Floats*)scratch;                                // [key][query]
  Floats* masks = scores + padded_keys;                             // [key][query]
  uint8_t* queries = (uint8_t*)(masks + padded_keys);               // [group][query][4]
  Ints* probabilities = (Ints*)(queries + padded * 4 * kLanes / 4); // [key / 4][query][4]
  uint8_t* key_bytes = (uint8_t*)(probabilities + padded_keys / 4); // [key][group][4], int8
  uint8_t* value_bytes = key_bytes + padded_keys * padded;          // [key / 4][channel][4], int8
  int32_t* key_starts = (int32_t*)(value_bytes + padded_keys * padded);
  int32_t* value_starts = key_starts + padded_keys;

  // (q - zq)(k - zk) summed over the channels: what does not depend on the query is the key's start, and the other way.
  for (int64_t j = 0; j < padded_keys; j++) {
    uint8_t* to = key_bytes + j * groups * 4;
    memset(to, 0, 4 * groups);
    int32_t sum = j < keys ? copy_key(key + j * a.key_stride, size, a.key_flip, to) : 0;
    key_starts[j] = (kShift - a.query_zero) * sum + (int32_t)size * a.query_zero * a.key_zero;
  }
  memset(value_starts, 0, 4 * padded);
  memset(value_bytes, 0, padded_keys * padded);
  for (int64_t j = 0; j < keys; j += 4)
    weave_values(value + j * a.value_stride, a.value_stride, least(keys - j, 4), size, a.value_flip,
                 (uint32_t*)(value_bytes + j * padded), value_starts);
  for (int64_t c = 0; c < padded; c++)
    value_starts[c] = (kShift - a.probability_params.zero) * value_starts[c] +
                      (int32_t)keys * a.probability_params.zero * a.value_zero;

  // Keys that fill the last eight up are hidden.
  bool same_mask = a.mask_query_stride == 0;
  for (int64_t j = 0; j < padded_keys; j++) masks[j] = all(j < keys && same_mask ? mask[j] : -3.402823466e38f);
  const Quantizer probability_quantizer = quantizer(a.probability_params);
  const Quantizer output_quantizer = quantizer(a.output_params);

  for (int64_t first = 0; first < a.length; first += kLanes) {
    int64_t count = least(a.length - first, kLanes);
    transpose_tokens(query + first * a.query_stride, a.query_stride, count, size, queries, 4 * kLanes);
    Ints query_start{};
    if (a.key_zero != 0)
      for (int64_t lane = 0; lane < count; lane++)
        for (int64_t c = 0; c < size; c++)
          query_start[lane] -= a.key_zero * (int)query[(first + lane) * a.query_stride + c];
    if (!same_mask)
      for (int64_t j = 0; j < keys; j++)
        for (int64_t lane = 0; lane < kLanes; lane++)
          masks[j][lane] = mask[(first + least(lane, count - 1)) * a.mask_query_stride + j];

    Floats most = all(-3.402823466e38f);
    for (int64_t j = 0; j < keys; j += 8)
      score(a, key_bytes + j * groups * 4, groups, queries, key_starts + j, query_start, masks + j, scores + j, most);
    Floats total{};
    for (int64_t j = 0; j < keys; j++) {
      scores[j] = exp_negative(scores[j] - most);
      total += scores[j];
    }
    Floats reciprocal = 1.0f / total;
    Ints sum{};
    for (int64_t j = 0; j < keys; j += 4) {
      Ints integers[4]{};
      if (j + 4 <= keys) {
        for (int k = 0; k < 4; k++) integers[k] = quantize(scores[j + k] * reciprocal, probability_quantizer);
      } else {
        for (int k = 0; k < keys - j; k++) integers[k] = quantize(scores[j + k] * reciprocal, probability_quantizer);
      }
      sum += (integers[0] + integers[1]) + (integers[2] + integers[3]);
      probabilities[j / 4] = integers[0] | integers[1] << 8 | integers[2] << 16 | integers[3] << 24;
    }
    Ints context_start = sum * -a.value_zero;

    for (int64_t channel = 0; channel < size; channel += 16) {
      Ints integers[16];
      for (int part = 0; part < 16; part += 8) {
        Ints sums[8];
        for (int c = 0; c < 8; c++) sums[c] = context_start + value_starts[channel + part + c];
        for (int64_t j = 0; j < (keys + 3) / 4; j++) {
          const uint8_t* four_values = value_bytes + (j * padded + channel + part) * 4;
          for (int c = 0; c < 8; c++) {
            int32_t four;
            memcpy(&four, four_values + 4 * c, 4);
            sums[c] = dot(sums[c], probabilities[j], all(four));
          }
        }
        for (int c = 0; c < 8; c++)
          integers[part + c] = quantize(numbers(sums[c]) * a.context_scale, output_quantizer);
      }
      store_bytes(integers, a.output + (batch * a.length + first) * a.heads * size + head * size + channel,
                  a.heads * size, count, least(size - channel, 16));
    }
  }
}

}  // namespace
