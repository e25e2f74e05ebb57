#include "block_weight.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace {

struct Block {
  int64_t group;  // of four inputs
  int8_t values[4];
};

// A row's blocks without those that are 0, in order.
std::vector<Block> blocks_of(const SparseRows& rows, const int8_t* values, int64_t row) {
  std::vector<Block> blocks;
  for (int64_t entry = rows.starts[row]; entry < rows.starts[row + 1]; entry++)
    for (int index = 0; index < rows.width; index++) {
      int64_t input = (int64_t)rows.positions[entry] * rows.width + index;
      int8_t value = values[entry * rows.width + index];
      if (value == 0 || input >= rows.inputs) continue;
      if (blocks.empty() || blocks.back().group != input / 4 || blocks.back().values[input % 4] != 0)
        blocks.push_back({input / 4, {}});
      blocks.back().values[input % 4] = value;
    }
  return blocks;
}

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
  row_sums_.assign(padded_outputs(), 0);
  int64_t cells = view.slices * padded_outputs();
  order_.resize(cells);
  steps_.resize(cells / 2);

  std::vector<std::vector<Block>> blocks(padded_outputs());
  for (int64_t row = 0; row < rows.outputs; row++) {
    blocks[row] = blocks_of(rows, values, row);
    for (const Block& block : blocks[row])
      for (int8_t value : block.values) row_sums_[row] += value;
  }
  std::vector<size_t> next(padded_outputs(), 0);  // of a row's blocks, the first in the slice at hand
  for (int64_t slice = 0; slice < view.slices; slice++) {
    int64_t first_group = slice * view.slice_groups, end_group = first_group + view.slice_groups;
    for (int64_t part = 0; part < view.parts; part++) {
      first_.push_back((uint32_t)offsets_.size());
      size_t counts[kPartRows];
      for (int row = 0; row < kPartRows; row++) {
        const std::vector<Block>& mine = blocks[part * kPartRows + row];
        size_t first = next[part * kPartRows + row], end = first;
        while (end < mine.size() && mine[end].group < end_group) end++;
        counts[row] = end - first;
      }
      int order[kPartRows];
      std::iota(order, order + kPartRows, 0);
      std::stable_sort(order, order + kPartRows, [&](int a, int b) { return counts[a] > counts[b]; });
      int64_t cell = (slice * view.parts + part) * kPartRows;
      std::copy(order, order + kPartRows, order_.begin() + cell);
      for (int pair = 0; pair < kPartRows; pair += 2) {
        constexpr size_t kEach = kStep / 2;  // blocks of a row in a step
        size_t steps = (counts[order[pair]] + kEach - 1) / kEach;
        steps_[(cell + pair) / 2] = (uint16_t)steps;
        for (size_t index = 0; index < steps * kEach; index++)
          for (int row : {order[pair], order[pair + 1]}) {
            Block block{first_group, {}};
            if (index < counts[row]) block = blocks[part * kPartRows + row][next[part * kPartRows + row]++];
            int32_t value;
            std::memcpy(&value, block.values, 4);
            offsets_.push_back((uint16_t)((block.group - first_group) * kOffsetUnit));
            values_.push_back(value);
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
    int64_t last = -1;  // group of four inputs
    for (int64_t entry = rows.starts[row]; entry < rows.starts[row + 1]; entry++)
      for (int index = 0; index < rows.width; index++) {
        int64_t input = (int64_t)rows.positions[entry] * rows.width + index;
        if (values[entry * rows.width + index] == 0 || input >= rows.inputs || input / 4 == last) continue;
        last = input / 4;
        count++;
      }
  }
  return count;
}
