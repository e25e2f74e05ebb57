// An int8 Linear layer of non-zero weights, packed for this CPU and run on a session's threads.
#pragma once

#include <memory>
#include <vector>

#include "block_weight.h"
#include "cost.h"
#include "ort_helpers.h"
#include "window_weight.h"

// What a layer has for each output.
struct LayerOutputs {
  std::vector<float> scale;                // of the sums
  std::vector<float> bias;
  std::vector<QuantParams> output_params;  // none: the output stays in fp32
  bool gelu;                               // before the quantization
};

// Parameters of an input that is quantized anew in each run.
struct RunParams {
  int input_zero;
  const float* scale;  // of the sums
  bool is_one;         // for all outputs; else one for each
};

class Int8Linear {
 public:
  // values: [entries][rows.width]. cost: of layer_cost; it decides between 1x4 blocks and windows.
  // Throws std::invalid_argument if the packed weight would be much larger than its file.
  Int8Linear(const SparseRows& rows, const int8_t* values, const LayerCost& cost, LayerOutputs layer, int input_zero);

  int64_t inputs() const { return windows_ ? windows_->view().inputs : blocks_->view().inputs; }
  int64_t outputs() const { return windows_ ? windows_->view().outputs : blocks_->view().outputs; }
  // x: [tokens][inputs]; y: [tokens][outputs], uint8 or fp32. params: in place of the scales and the input's zero
  // point that the layer was made with.
  void run(const void* api, const ort::KernelContext* context, const uint8_t* x, int64_t tokens, void* y,
           const RunParams* params = nullptr) const;

 private:
  // Quantization parameters of each output, by kind.
  struct Lanes {
    std::vector<float> scale, reciprocal, low, high;
    std::vector<int32_t> zero;
  };

  const Kernels& kernels_;  // the weight is packed for them
  std::unique_ptr<PackedBlocks> blocks_;  // one of the two
  std::unique_ptr<PackedWindows> windows_;
  LayerOutputs layer_;  // padded
  Lanes lanes_;
  int input_zero_;
};
