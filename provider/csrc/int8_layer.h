// int8 Linear layers in the forms that tools write: which tensors a product has, and what they say.
#pragma once

#include "layer.h"

// Whether a type of node is made of Linear layers by ONNX Runtime's optimizations, whose result has been saved.
bool is_fused(const std::string& type);

// The weight of a product and how it is quantized; kNone where there is no such tensor.
struct WeightTensors {
  int weight, scale, zero;
  int dequantize;  // a node
};
// None if a node is no product of a Linear layer.
std::optional<WeightTensors> weight_tensors(const GraphView& graph, int node);

// Zero points of an int8 or uint8 weight, one for each output; "" or why they cannot be read.
template <typename T>
std::string read_zeros(const GraphView& graph, const WeightTensors& tensors, std::vector<T>& zeros) {
  if (tensors.zero == kNone) return "";  // they are 0
  const ort::Tensor *weight = graph.constant(tensors.weight), *zero = graph.constant(tensors.zero);
  if (!zero || zero->type != weight->type) return "the zero point of its weight is no constant of the weight's type";
  bool is_one = zero->count() == 1;
  if (zero->shape.size() > 1 || (!is_one && zero->count() != (int64_t)zeros.size()))
    return "the zero point of its weight is neither one number nor one for each output";
  for (size_t output = 0; output < zeros.size(); output++) zeros[output] = zero->as<T>()[is_one ? 0 : output];
  return "";
}
// Fills in all but the weight. "" or why the layer cannot be taken.
std::string read_int8(const GraphView& graph, int product, const WeightTensors& tensors, Layer& layer);
// The bias that an fp32 product has itself, or that an Add adds to it.
std::string read_bias(const GraphView& graph, int product, Layer& layer);
// Whether a product's weight is [outputs][inputs].
bool is_transposed(const GraphView& graph, int product);
