#include "quantization.h"

namespace {

// A constant scale whose reciprocal, and 255 times which, are numbers, too.
std::optional<float> scale_of(const GraphView& graph, int tensor) {
  std::optional<float> scale = graph.number(tensor);
  return scale && *scale > 1e-37f && *scale < 1e35f ? scale : std::nullopt;
}

}  // namespace

std::optional<Quantization> quantization(const GraphView& graph, int scale, int zero) {
  std::optional<float> step = scale_of(graph, scale);
  if (!step) return {};
  const ort::Tensor* point = graph.constant(zero);
  if (!point || point->count() != 1) return {};
  if (point->type == ort::kUint8) return Quantization{*step, point->as<uint8_t>()[0], false};
  if (point->type == ort::kInt8) return Quantization{*step, point->as<int8_t>()[0], true};
  return {};
}

std::optional<Quantization> quantization(const GraphView& graph, int node) {
  if (node == kNone) return {};
  int scale = graph.input(node, 1), zero = graph.input(node, 2);
  if (zero != kNone) return quantization(graph, scale, zero);
  // The integers are uint8 where a QuantizeLinear says nothing else.
  bool is_quantize = graph.node(node).type == "QuantizeLinear";
  int quantize = is_quantize ? node : graph.producer(graph.input(node, 0), "QuantizeLinear");
  if (quantize == kNone || graph.input(quantize, 2) != kNone || graph.integer(quantize, "output_dtype", 0)) return {};
  std::optional<float> step = scale_of(graph, scale);
  return step ? std::optional(Quantization{*step, 0, false}) : std::nullopt;
}
