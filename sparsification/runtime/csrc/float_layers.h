// One Linear layer in fp32, or several in a row, of their non-zero weights, packed and run on a session's threads.
#pragma once

#include <memory>
#include <vector>

#include "float_weight.h"
#include "ort_helpers.h"

class FloatLayers {
 public:
  // gelu: applied to the output of the first one.
  explicit FloatLayers(bool gelu) : gelu_(gelu) {}
  // Adds a layer that reads the one before it. values: [entries][rows.width]; bias: [rows.outputs].
  // Throws std::invalid_argument if the packed weight would be much larger than its file.
  void add(const SparseRows& rows, const float* values, std::vector<float> bias);

  int64_t inputs() const { return layers_.front().weight->view().inputs; }
  int64_t outputs() const { return layers_.back().weight->view().outputs; }
  // x: [tokens][inputs]; y: [tokens][outputs]. What is between two layers stays a panel, as the second one reads it.
  void run(const void* api, const ort::KernelContext* context, const float* x, int64_t tokens, float* y) const;

 private:
  struct Layer {
    std::unique_ptr<PackedFloats> weight;
    std::vector<float> bias;  // padded
  };
  const FloatWeight& weight(size_t layer) const { return layers_[layer].weight->view(); }

  std::vector<Layer> layers_;
  bool gelu_;
};
