// How long a token takes in each form of an int8 Linear layer.
#pragma once

#include "sparse_rows.h"

// What the forms have to do for each token.
struct LayerWork {
  double blocks;   // 1x4 blocks that are not all 0
  double windows;  // steps; infinite where the CPU has no such kernel
};
// Nanoseconds for each token on one thread, without what each form takes for an output.
struct LayerCost {
  double dense;  // ONNX Runtime's product
  double blocks;
  double windows;
};

// values: [entries][rows.width].
LayerWork layer_work(const SparseRows& rows, const int8_t* values);
LayerCost layer_cost(const SparseRows& rows, const LayerWork& work);

// The non-zero weights of a weight [outputs][inputs] that is not stored sparsely, and their rows.
SparseRows find_rows(int64_t inputs, int64_t outputs, const int8_t* weight, std::vector<int8_t>& values);
