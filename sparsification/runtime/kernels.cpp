// The kernels themselves, compiled once for each instruction set: -DVARIANT names it. See kernels.h for the idea.
#include "kernels.h"
#include "vector.h"

namespace {

constexpr int kVectors = kTokens / kLanes;  // of a tile

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Panel: out[group][token] = x[token][4 * group .. + 3], for the lanes of one vector; zeros where there is nothing.
// x: its first token; out: `stride` bytes from group to group.
void transpose_tokens(const uint8_t* x, int64_t x_stride, int64_t tokens, int64_t inputs, uint8_t* out,
                      int64_t stride) {
  int64_t groups = (inputs + 3) / 4;
  for (int64_t group = 0; group < groups; group += kLanes) {
    int64_t bytes = least(inputs - 4 * group, 4 * kLanes);
    Ints rows[kLanes];
    for (int token = 0; token < kLanes; token++) {
      rows[token] = Ints{};
      if (token >= tokens) continue;
      const uint8_t* from = x + token * x_stride + 4 * group;
      if (bytes == 4 * kLanes) {
        rows[token] = load(from);
      } else {
        memcpy(&rows[token], from, bytes);
      }
    }
    transpose(rows);
    int64_t count = least(groups - group, kLanes);
    for (int lane = 0; lane < count; lane++) store(out + (group + lane) * stride, rows[lane]);
  }
}

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

// Bytes of 16 rows for the tokens of one vector, to output[token][row]. integers[row]: one in each lane, 0..255.
INLINE void store_bytes(const Ints integers[16], uint8_t* output, int64_t stride, int64_t tokens, int64_t count) {
  Ints packed[4];
  for (int i = 0; i < 4; i++)
    packed[i] = integers[4 * i] | integers[4 * i + 1] << 8 | integers[4 * i + 2] << 16 | integers[4 * i + 3] << 24;
  exchange<1>(packed[0], packed[1]);
  exchange<1>(packed[2], packed[3]);
  exchange<2>(packed[0], packed[2]);
  exchange<2>(packed[1], packed[3]);
  // Now each quarter of a vector is one token's 16 bytes.
  alignas(64) uint8_t bytes[kLanes][16];
  for (int i = 0; i < 4; i++) {
    alignas(64) uint8_t quarters[kLanes / 4][16];
    store(quarters, packed[i]);
    for (int quarter = 0; quarter < kLanes / 4; quarter++) memcpy(bytes[4 * quarter + i], quarters[quarter], 16);
  }
  if (count == 16) {
    for (int64_t token = 0; token < tokens; token++) memcpy(output + token * stride, bytes[token], 16);
  } else {
    for (int64_t token = 0; token < tokens; token++) memcpy(output + token * stride, bytes[token], count);
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
  if (epilogue.grids) {
    Ints integers[16];
    for (int row = 0; row < 16; row++)
      integers[row] = quantize(values[row], quantizer(epilogue.grids[first + row]));
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

// How many keys there are up to the last one that the mask lets anyone see; all, if it hides all.
int64_t visible_keys(const Attention& a, const float* mask) {
  // Those behind have probability 0, which is an integer of 0 only on a grid without a zero point.
  if (a.mask_query_stride != 0 || a.probability_grid.zero != 0) return a.length;
  int64_t keys = a.length;
  while (keys > 0 && mask[keys - 1] < -1e30f) keys--;
  return keys > 0 ? keys : a.length;
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
  int64_t keys = visible_keys(a, mask), padded_keys = (a.length + 7) / 8 * 8;
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
    value_starts[c] = (kShift - a.probability_grid.zero) * value_starts[c] +
                      (int32_t)keys * a.probability_grid.zero * a.value_zero;

  // Keys that fill the last eight up are hidden.
  bool same_mask = a.mask_query_stride == 0;
  for (int64_t j = 0; j < padded_keys; j++) masks[j] = all(j < keys && same_mask ? mask[j] : -3.402823466e38f);
  const Quantizer probability_grid = quantizer(a.probability_grid);
  const Quantizer output_grid = quantizer(a.output_grid);

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
        for (int k = 0; k < 4; k++) integers[k] = quantize(scores[j + k] * reciprocal, probability_grid);
      } else {
        for (int k = 0; k < keys - j; k++) integers[k] = quantize(scores[j + k] * reciprocal, probability_grid);
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
          integers[part + c] = quantize(numbers(sums[c]) * a.context_scale, output_grid);
      }
      store_bytes(integers, a.output + (batch * a.length + first) * a.heads * size + head * size + channel,
                  a.heads * size, count, least(size - channel, 16));
    }
  }
}

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
  const Quantizer grid = quantizer(norm.grid);
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
      typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
      Bytes bytes[kSixteen];
      for (int v = 0; v < kSixteen; v++) {
        x[v] = fma((x[v] - mean) * factor, gamma[v], beta[v]);
        bytes[v] = __builtin_convertvector(quantize(x[v], grid), Bytes);
      }
      store16(out + i, size - i, x);
      store16(norm.integers + row * size + i, size - i, bytes);
    }
  }
}

}  // namespace

#define NAME_(prefix, name) prefix##name
#define NAME(prefix, name) NAME_(prefix, name)
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

extern const Kernels NAME(kernels_, VARIANT);
const Kernels NAME(kernels_, VARIANT) = {TEXT(VARIANT), linear, attention, add_norm};
