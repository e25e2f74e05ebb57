// Weights of Linear layers as a graph has them: counted, and read as rows of those that are not zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "sparse_rows.h"

// A weight [outputs][inputs] as [inputs][outputs].
template <typename T>
std::vector<T> transposed(const T* weight, int64_t inputs, int64_t outputs) {
  std::vector<T> turned((size_t)(inputs * outputs));
  for (int64_t output = 0; output < outputs; output++)
    for (int64_t input = 0; input < inputs; input++) turned[input * outputs + output] = weight[output * inputs + input];
  return turned;
}

// How many weights of each output are not its zero point, in a weight [inputs][outputs].
template <typename T>
std::vector<int64_t> count_weights(const T* weight, const std::vector<T>& zeros, int64_t inputs) {
  int64_t outputs = (int64_t)zeros.size();
  std::vector<int64_t> counts(zeros.size(), 0);
  std::vector<uint8_t> some(zeros.size());
  for (int64_t first = 0; first < inputs; first += 255) {
    std::fill(some.begin(), some.end(), (uint8_t)0);
    for (int64_t input = first; input < std::min(first + 255, inputs); input++)
      for (int64_t output = 0; output < outputs; output++)
        some[output] += weight[input * outputs + output] != zeros[output];
    for (int64_t output = 0; output < outputs; output++) counts[output] += some[output];
  }
  return counts;
}

// Which of eight int8 weights are not 0: bit i for weight i.
inline uint64_t nonzero_bits(const int8_t* weights) {
  uint64_t eight, low = 0x7f7f7f7f7f7f7f7f;
  std::memcpy(&eight, weights, 8);
  // The highest bit of each byte that is not 0; the product collects them. The machine is little-endian.
  return (((((eight & low) + low) | eight) & ~low) >> 7) * 0x0102040810204080 >> 56;
}

// Calls add(index) for each weight of a row that is not 0, in their order.
template <typename Add>
void each_nonzero(const int8_t* row, int64_t count, Add add) {
  int64_t index = 0;
  for (; index + 64 <= count; index += 64) {
    uint64_t bits = 0;
    for (int eight = 0; eight < 8; eight++) bits |= nonzero_bits(row + index + 8 * eight) << 8 * eight;
    for (; bits; bits &= bits - 1) add(index + __builtin_ctzll(bits));
  }
  for (; index < count; index++)
    if (row[index] != 0) add(index);
}
template <typename Add>
void each_nonzero(const float* row, int64_t count, Add add) {
  for (int64_t index = 0; index < count; index++)
    if (row[index] != 0) add(index);
}

// Collects weights as rows: of each input, those of `row(input)` that are not 0, and for each its value(input, output).
template <typename T, typename Row, typename Value>
SparseRows collect_rows(int64_t inputs, const std::vector<int64_t>& counts, std::vector<T>& values, const Row& row,
                        const Value& value) {
  int64_t outputs = (int64_t)counts.size();
  SparseRows rows{inputs, outputs, 1, {0}, {}};
  for (int64_t count : counts) rows.starts.push_back(rows.starts.back() + count);
  rows.positions.resize((size_t)rows.starts.back());
  values.resize(rows.positions.size());
  std::vector<int64_t> next(rows.starts.begin(), rows.starts.end() - 1);
  // Stores of int8 may alias anything: pointers that are copied are not read anew.
  int64_t* places = next.data();
  uint16_t* positions = rows.positions.data();
  T* to = values.data();
  for (int64_t input = 0; input < inputs; input++)
    each_nonzero(row(input), outputs, [=](int64_t output) {
      int64_t entry = places[output]++;
      positions[entry] = (uint16_t)input;
      to[entry] = value(input, output);
    });
  return rows;
}

// The non-zero weights of a weight [inputs][outputs].
template <typename T>
SparseRows rows_of(const T* weight, int64_t inputs, const std::vector<int64_t>& counts, std::vector<T>& values) {
  int64_t outputs = (int64_t)counts.size();
  return collect_rows(
      inputs, counts, values, [=](int64_t input) { return weight + input * outputs; },
      [=](int64_t input, int64_t output) { return weight[input * outputs + output]; });
}

// The same of integers less the zero point of each output. A difference that is no int8 becomes several entries at one
// input, which the kernels add up.
template <typename T>
SparseRows rows_of(const T* weight, const std::vector<T>& zeros, int64_t inputs, const std::vector<int64_t>& counts,
                   std::vector<int8_t>& values) {
  int64_t outputs = (int64_t)counts.size();
  std::vector<int8_t> differs(counts.size());
  int8_t* flags = differs.data();
  const T* zero = zeros.data();
  std::vector<int16_t> wide;
  SparseRows all = collect_rows(
      inputs, counts, wide,
      [=](int64_t input) {
        for (int64_t output = 0; output < outputs; output++)
          flags[output] = (int8_t)(weight[input * outputs + output] ^ zero[output]);
        return (const int8_t*)flags;
      },
      [=](int64_t input, int64_t output) { return (int16_t)(weight[input * outputs + output] - zero[output]); });
  SparseRows rows{inputs, outputs, 1, {0}, {}};
  rows.positions.reserve(wide.size());
  values.reserve(wide.size());
  for (int64_t row = 0; row < outputs; row++) {
    for (int64_t entry = all.starts[row]; entry < all.starts[row + 1]; entry++)
      for (int rest = wide[entry]; rest != 0; rest -= values.back()) {
        rows.positions.push_back(all.positions[entry]);
        values.push_back((int8_t)std::clamp(rest, -128, 127));
      }
    rows.starts.push_back((int64_t)values.size());
  }
  return rows;
}
