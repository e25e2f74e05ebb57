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

// How many weights of each output are not 0, in a weight [inputs][outputs].
template <typename T>
std::vector<int64_t> count_weights(const T* weight, int64_t inputs, int64_t outputs) {
  std::vector<int64_t> counts((size_t)outputs, 0);
  std::vector<uint8_t> some((size_t)outputs);
  for (int64_t first = 0; first < inputs; first += 255) {
    std::fill(some.begin(), some.end(), (uint8_t)0);
    for (int64_t input = first; input < std::min(first + 255, inputs); input++)
      for (int64_t output = 0; output < outputs; output++) some[output] += weight[input * outputs + output] != 0;
    for (int64_t output = 0; output < outputs; output++) counts[output] += some[output];
  }
  return counts;
}

// Calls add(output) for each weight that is not 0 of an input. Most of eight int8 weights are.
template <typename Add>
void each_output(const int8_t* row, int64_t outputs, const Add& add) {
  int64_t output = 0;
  for (; output + 8 <= outputs; output += 8) {
    uint64_t eight, low = 0x7f7f7f7f7f7f7f7f;
    std::memcpy(&eight, row + output, 8);
    // The highest bit of each byte that is not 0. The machine is little-endian: the first byte is the lowest.
    for (uint64_t bits = (((eight & low) + low) | eight) & ~low; bits; bits &= bits - 1)
      add(output + __builtin_ctzll(bits) / 8);
  }
  for (; output < outputs; output++)
    if (row[output] != 0) add(output);
}
template <typename Add>
void each_output(const float* row, int64_t outputs, const Add& add) {
  for (int64_t output = 0; output < outputs; output++)
    if (row[output] != 0) add(output);
}

// The non-zero weights of a weight [inputs][outputs].
template <typename T>
SparseRows rows_of(const T* weight, int64_t inputs, const std::vector<int64_t>& counts, std::vector<T>& values) {
  int64_t outputs = (int64_t)counts.size();
  SparseRows rows{inputs, outputs, 1, {0}, {}};
  for (int64_t count : counts) rows.starts.push_back(rows.starts.back() + count);
  rows.positions.resize((size_t)rows.starts.back());
  values.resize(rows.positions.size());
  std::vector<int64_t> next(rows.starts.begin(), rows.starts.end() - 1);
  for (int64_t input = 0; input < inputs; input++) {
    const T* row = weight + input * outputs;
    each_output(row, outputs, [&](int64_t output) {
      int64_t entry = next[output]++;
      rows.positions[entry] = (uint16_t)input;
      values[entry] = row[output];
    });
  }
  return rows;
}
