// A sparse int8 weight in windows, in the layout of the kernel.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"
#include "sparse_rows.h"

class PackedWindows {
 public:
  // values: [entries][rows.width]. Throws std::invalid_argument if the table of groups would be much larger than the
  // file.
  PackedWindows(const SparseRows& rows, const int8_t* values);
  PackedWindows(const PackedWindows&) = delete;
  const WindowWeight& view() const { return view_; }
  int64_t padded_outputs() const { return view_.groups * kWindowLanes; }
  int64_t steps() const { return (int64_t)windows_.size(); }

 private:
  WindowWeight view_;
  std::vector<uint32_t> order_, first_;
  std::vector<int32_t> row_sums_;
  std::vector<uint16_t> windows_;
  std::unique_ptr<uint8_t[], void (*)(void*)> bytes_;  // picks, then values
};
