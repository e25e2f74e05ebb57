#include "cost.h"

#include <limits>

#include "block_weight.h"
#include "cpu.h"
#include "window_weight.h"

namespace {

// Least squares over the layers of BERT base and MiniLM on AMD Zen 5: make bench-break-even. An output takes 0.2 ns in
// each form. On Zen 4 the dense product took 0.0050, a step 0.361: there sparse forms pay earlier. Without VNNI all
// takes longer, in about the same ratio: estimated from whole models on Zen 3.
constexpr double kDenseWeight = 0.00205, kBlock = 0.0122, kWindowStep = 0.232;

}  // namespace

LayerWork layer_work(const SparseRows& rows, const int8_t* values) {
  double steps = std::numeric_limits<double>::infinity();
  if (kernels().window_linear) steps = (double)PackedWindows(rows, values).steps();
  return {(double)count_blocks(rows, values), steps};
}

LayerCost layer_cost(const SparseRows& rows, const LayerWork& work) {
  double weights = (double)rows.inputs * (double)rows.outputs;
  return {kDenseWeight * weights, kBlock * work.blocks, kWindowStep * work.windows};
}

SparseRows find_rows(int64_t inputs, int64_t outputs, const int8_t* weight, std::vector<int8_t>& values) {
  SparseRows rows{inputs, outputs, 1, {0}, {}};
  for (int64_t row = 0; row < outputs; row++) {
    for (int64_t input = 0; input < inputs; input++)
      if (int8_t value = weight[row * inputs + input]) {
        rows.positions.push_back((uint16_t)input);
        values.push_back(value);
      }
    rows.starts.push_back((int64_t)values.size());
  }
  return rows;
}
