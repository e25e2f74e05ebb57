// The kernel of attention in fp32: scores, softmax and context of one head of one row of the batch.
#pragma once

#include "attention.h"
#include "float_linear.h"

namespace {

constexpr int kQueryVectors = 2;             // vectors of queries in a step: with their sums they stay in registers
constexpr int kRows = kLanes == 16 ? 8 : 4;  // keys, or channels, in a step

// sums[row][query] over `count` columns of values[row * row_stride + column * column_stride] * x[column][query].
INLINE void multiply_queries(const float* values, int64_t row_stride, int64_t column_stride, const float* x,
                             int64_t count, Floats sums[kRows][kQueryVectors]) {
  for (int row = 0; row < kRows; row++)
    for (int v = 0; v < kQueryVectors; v++) sums[row][v] = Floats{};
  for (int64_t column = 0; column < count; column++) {
    Floats queries[kQueryVectors];
    for (int v = 0; v < kQueryVectors; v++) queries[v] = (Floats)load(x + column * kFloatTokens + v * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row++) {
      Floats value = all(values[row * row_stride + column * column_stride]);
      for (int v = 0; v < kQueryVectors; v++) sums[row][v] = fma(queries[v], value, sums[row][v]);
    }
  }
}

// context[channel][query] of kQueryVectors vectors of queries. A mask for each key has stride 1, one for each key and
// query that of the scores.
void attend(const FloatAttention& a, const float* queries, const float* keys, const float* values, int64_t count,
            const float* mask, int64_t mask_key_stride, float* scores, float* context) {
  int64_t size = float_padded(a.head_size);
  Floats most[kQueryVectors], sums[kRows][kQueryVectors];
  for (int v = 0; v < kQueryVectors; v++) most[v] = all(-3.402823466e38f);
  for (int64_t key = 0; key < count; key += kRows) {
    multiply_queries(keys + key * size, size, 1, queries, a.head_size, sums);
    for (int row = 0; row < least(kRows, count - key); row++)
      for (int v = 0; v < kQueryVectors; v++) {
        const float* from = mask + (key + row) * mask_key_stride;
        Floats added = mask_key_stride == 1 ? all(*from) : (Floats)load(from + v * kLanes);
        Floats score = sums[row][v] * a.score_scale + added;
        store(scores + (key + row) * kFloatTokens + v * kLanes, (Ints)score);
        most[v] = larger(most[v], score);
      }
  }
  Floats total[kQueryVectors]{};
  for (int64_t key = 0; key < count; key++)
    for (int v = 0; v < kQueryVectors; v++) {
      float* score = scores + key * kFloatTokens + v * kLanes;
      Floats power = exp_negative((Floats)load(score) - most[v]);
      total[v] += power;
      store(score, (Ints)power);
    }
  for (int v = 0; v < kQueryVectors; v++) total[v] = 1.0f / total[v];
  for (int64_t channel = 0; channel < a.head_size; channel += kRows) {
    multiply_queries(values + channel, 1, size, scores, count, sums);
    for (int row = 0; row < kRows; row++)
      for (int v = 0; v < kQueryVectors; v++)
        store(context + (channel + row) * kFloatTokens + v * kLanes, (Ints)(sums[row][v] * total[v]));
  }
}

INLINE void copy_padded(const float* from, int64_t count, int64_t padded, float* to) {
  memcpy(to, from, sizeof(float) * count);
  memset(to + count, 0, sizeof(float) * (padded - count));
}

void float_attention(const FloatAttention& a, int64_t batch, int64_t head, void* scratch) {
  int64_t size = float_padded(a.head_size), padded_keys = float_padded(a.length);
  const float* mask = a.mask + batch * a.mask_batch_stride;
  // Those behind the last visible key have probability 0.
  int64_t count = a.mask_query_stride == 0 ? visible_keys(mask, a.length) : a.length;
  const float* query = a.query + batch * a.length * a.query_stride + head * a.head_size;
  const float* key = a.key + batch * a.length * a.key_stride + head * a.head_size;
  const float* value = a.value + batch * a.length * a.value_stride + head * a.head_size;

  float* scores = (float*)scratch;                      // [key][query]
  float* masks = scores + padded_keys * kFloatTokens;   // [key][query]
  float* queries = masks + padded_keys * kFloatTokens;  // [channel][query]
  float* context = queries + size * kFloatTokens;       // [channel][query]
  float* keys = context + size * kFloatTokens;          // [key][channel]
  float* values = keys + padded_keys * size;            // [key][channel]
  // Side by side they stay in the cache. What fills them up is read, but takes part in no result.
  for (int64_t j = 0; j < count; j++) {
    copy_padded(key + j * a.key_stride, a.head_size, size, keys + j * size);
    copy_padded(value + j * a.value_stride, a.head_size, size, values + j * size);
  }
  memset(keys + count * size, 0, sizeof(float) * (float_padded(count) - count) * size);
  for (int64_t first = 0; first < a.length; first += kFloatTokens) {
    int64_t tokens = least(a.length - first, kFloatTokens);
    transpose_in(query + first * a.query_stride, a.query_stride, tokens, a.head_size, queries);
    if (a.mask_query_stride != 0)
      for (int64_t j = 0; j < count; j++)
        for (int64_t lane = 0; lane < kFloatTokens; lane++)
          masks[j * kFloatTokens + lane] = mask[(first + least(lane, tokens - 1)) * a.mask_query_stride + j];
    for (int64_t lane = 0; lane < tokens; lane += kQueryVectors * kLanes) {
      if (a.mask_query_stride != 0) {
        attend(a, queries + lane, keys, values, count, masks + lane, kFloatTokens, scores + lane, context + lane);
      } else {
        attend(a, queries + lane, keys, values, count, mask, 1, scores + lane, context + lane);
      }
    }
    float_output(context, tokens, a.head_size,
                 a.output + ((batch * a.length + first) * a.heads + head) * a.head_size, a.heads * a.head_size);
  }
}

}  // namespace
