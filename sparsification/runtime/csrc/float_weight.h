// Storage of a sparse fp32 weight in the kernel's layout.
#pragma once

#include <vector>

#include "float_kernels.h"
#include "sparse_rows.h"

class PackedFloats {
 public:
  // values: [entries][width]. Throws std::invalid_argument where the table of rows would be much larger than the file.
  PackedFloats(const SparseRows& rows, const float* values);
  PackedFloats(const PackedFloats&) = delete;
  const FloatWeight& view() const { return view_; }
  int64_t padded_outputs() const { return view_.parts * kFloatPartRows; }

 private:
  FloatWeight view_;
  std::vector<uint8_t> order_, counts_;
  std::vector<uint32_t> first_;
  std::vector<uint16_t> offsets_;
  std::vector<float> values_;
};
