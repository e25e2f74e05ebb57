// Storage of a sparse weight, selection of the kernels for this CPU, and their scratch memory.
#pragma once

#include <vector>

#include "kernels.h"

// A sparse weight as a file has it: blocks row after row, for each row their count, for each block which group of four
// inputs it multiplies, and its four weights. The contents are untrusted.
struct WeightFile {
  int64_t inputs, outputs, blocks;
  const uint16_t* counts;   // [outputs]
  const uint16_t* indices;  // [blocks]
  const int8_t* values;     // [blocks][4]
};

// The same in the kernels' layout. All checks are made when it is packed: a packed weight cannot be read out of bounds,
// and its memory is proportional to the file.
class PackedWeight {
 public:
  // Throws std::invalid_argument, with what is wrong.
  explicit PackedWeight(const WeightFile& file);
  PackedWeight(const PackedWeight&) = delete;
  const SparseWeight& view() const { return view_; }
  int64_t padded_outputs() const { return view_.parts * kPartRows; }

 private:
  SparseWeight view_;
  std::vector<int32_t> row_sums_, values_;
  std::vector<uint16_t> order_, steps_, offsets_;
  std::vector<uint32_t> first_;
};

// The fastest kernels that this CPU runs, or those that the environment variable SPARSIFICATION_CPU names.
// Throws std::invalid_argument if it names none that run here.
const Kernels& kernels();
// The same at run time, for tests; false if there are none of that name that run here.
bool select_kernels(const char* name);
// Names of the kernels that run here, fastest first, with a space after each.
const char* available_kernels();

// Memory of the calling thread, 64-byte aligned, at least that large. Valid until the thread's next call.
void* scratch(size_t bytes);
