// A sparse int8 weight in 1x4 blocks, in the layout of the kernels.
#pragma once

#include <vector>

#include "kernels.h"
#include "sparse_rows.h"

// Where the kernels add pairs of products in 16 bits, a block whose pairs would overflow there becomes several, which
// have each a part of its weights. Of weights with a scale for each output these are few.
class PackedBlocks {
 public:
  // values: [entries][rows.width]. Throws std::invalid_argument if the table of rows would be much larger than the file.
  PackedBlocks(const SparseRows& rows, const int8_t* values);
  PackedBlocks(const PackedBlocks&) = delete;
  const SparseWeight& view() const { return view_; }
  int64_t padded_outputs() const { return view_.parts * kPartRows; }

 private:
  SparseWeight view_;
  std::vector<int32_t> row_sums_, values_;
  std::vector<uint16_t> order_, steps_, offsets_;
  std::vector<uint32_t> first_;
};

// How many blocks a weight has that are not all 0.
int64_t count_blocks(const SparseRows& rows, const int8_t* values);
