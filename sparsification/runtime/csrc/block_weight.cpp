#include "block_weight.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "cpu.h"

namespace {

// The products of two adjacent weights whose sum is not larger fit in 16 bits, with any two bytes. If one is negative
// and the other is not, they always do.
constexpr int kLargestPair = 128;

// The blocks of all outputs, without those that are 0, in order.
struct Blocks {
  std::vector<int32_t> groups;   // of four inputs
  std::vector<uint32_t> values;  // four weights, the first in the lowest byte
  std::vector<size_t> starts;    // of each output, and the end
  std::vector<int32_t> sums;     // of each output's weights

  // An entry makes one block at most, its weights lie in one group; with `apart`, each of its weights may make one.
  Blocks(const SparseRows& rows, const int8_t* given, bool apart)
      : groups(rows.positions.size() * (apart ? rows.width : 1) + 1),
        values(groups.size()),
        starts{1},
        sums((size_t)rows.outputs) {
    int32_t* to_groups = groups.data();
    uint32_t* to_values = values.data();
    size_t at = 0;  // the block at hand; the first is none
    for (int64_t row = 0; row < rows.outputs; row++) {
      int32_t last = -1, sum = 0;
      uint32_t block = 0;
      each_weight(rows, given, row, [&](int32_t input, int8_t value) {
        int32_t group = input / 4, shift = input % 4 * 8;
        // A second weight of one input begins a block, too. Without branches, which cannot be foreseen.
        uint32_t begins = (group != last) | ((block >> shift & 0xff) != 0);
        begins |= apart & (std::abs((int8_t)(block >> (shift ^ 8)) + value) > kLargestPair);
        at += begins;
        block = (block & (begins - 1)) | (uint32_t)(uint8_t)value << shift;
        to_groups[at] = last = group;
        to_values[at] = block;
        sum += value;
      });
      sums[row] = sum;
      starts.push_back(at + 1);
    }
  }
};

}  // namespace

PackedBlocks::PackedBlocks(const SparseRows& rows, const int8_t* values) {
  SparseWeight& view = view_;
  view.inputs = rows.inputs;
  view.outputs = rows.outputs;
  view.groups = (rows.inputs + 3) / 4;
  view.slices = (view.groups + kSliceGroups - 1) / kSliceGroups;
  view.slice_groups = (view.groups + view.slices - 1) / view.slices;
  view.parts = (rows.outputs + kPartRows - 1) / kPartRows;
  check_slices(rows, view.slices);
  int64_t cells = view.slices * padded_outputs();
  order_.resize(cells);
  steps_.resize(cells / 2);

  Blocks blocks(rows, values, kernels().adds_pairs);
  row_sums_ = std::move(blocks.sums);
  row_sums_.resize(padded_outputs(), 0);
  blocks.starts.resize(padded_outputs() + 1, blocks.starts.back());
  std::vector<size_t> next(blocks.starts);  // of a row's blocks, the first in the slice at hand
  size_t about = blocks.starts.back() + blocks.starts.back() / 8;  // with those of zeros that fill rows up
  offsets_.reserve(about);
  values_.reserve(about);
  for (int64_t slice = 0; slice < view.slices; slice++) {
    int32_t first_group = (int32_t)(slice * view.slice_groups), end_group = first_group + (int32_t)view.slice_groups;
    for (int64_t part = 0; part < view.parts; part++) {
      first_.push_back((uint32_t)offsets_.size());
      const size_t* ends = &blocks.starts[part * kPartRows + 1];
      size_t *begins = &next[part * kPartRows], counts[kPartRows];
      for (int row = 0; row < kPartRows; row++) {
        auto first = blocks.groups.begin() + begins[row], end = blocks.groups.begin() + ends[row];
        counts[row] = std::lower_bound(first, end, end_group) - first;
      }
      int order[kPartRows];
      std::iota(order, order + kPartRows, 0);
      std::stable_sort(order, order + kPartRows, [&](int a, int b) { return counts[a] > counts[b]; });
      int64_t cell = (slice * view.parts + part) * kPartRows;
      std::copy(order, order + kPartRows, order_.begin() + cell);
      for (int pair = 0; pair < kPartRows; pair += 2) {
        constexpr size_t kEach = kStep / 2;  // blocks of a row in a step
        size_t steps = (counts[order[pair]] + kEach - 1) / kEach, place = offsets_.size();
        steps_[(cell + pair) / 2] = (uint16_t)steps;
        offsets_.resize(place + steps * kStep);
        values_.resize(place + steps * kStep);
        for (int row : {order[pair], order[pair + 1]}) {
          const int32_t* groups = blocks.groups.data() + begins[row];
          const uint32_t* from = blocks.values.data() + begins[row];
          uint16_t* offsets = offsets_.data() + place;
          int32_t* to = values_.data() + place++;
          for (size_t index = 0; index < counts[row]; index++) {
            offsets[2 * index] = (uint16_t)((groups[index] - first_group) * kOffsetUnit);
            to[2 * index] = (int32_t)from[index];
          }
          begins[row] += counts[row];
        }
      }
    }
  }
  view.row_sums = row_sums_.data();
  view.order = order_.data();
  view.steps = steps_.data();
  view.first = first_.data();
  view.offsets = offsets_.data();
  view.values = values_.data();
}

int64_t count_blocks(const SparseRows& rows, const int8_t* values) {
  int64_t count = 0;
  for (int64_t row = 0; row < rows.outputs; row++) {
    int32_t last = -1;  // group of four inputs
    each_weight(rows, values, row, [&](int32_t input, int8_t) {
      count += input / 4 != last;
      last = input / 4;
    });
  }
  return count;
}
