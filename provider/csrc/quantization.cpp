#include "quantization.h"

std::optional<Quantization> quantization(const GraphView& graph, int node) {
  if (node == kNone) return {};
  std::optional<float> scale = graph.number(graph.input(node, 1));
  // Its reciprocal and 255 times it have to be numbers, too.
  if (!scale || !(*scale > 1e-37f && *scale < 1e35f)) return {};
  int zero_point = graph.input(node, 2);
  if (zero_point == kNone) {
    // The integers are uint8 where a QuantizeLinear says nothing else.
    bool is_quantize = graph.node(node).type == "QuantizeLinear";
    int quantize = is_quantize ? node : graph.producer(graph.input(node, 0), "QuantizeLinear");
    if (quantize == kNone || graph.input(quantize, 2) != kNone || graph.integer(quantize, "output_dtype", 0)) return {};
    return Quantization{*scale, 0, false};
  }
  const ort::Tensor* zero = graph.constant(zero_point);
  if (!zero || zero->count() != 1) return {};
  if (zero->type == ort::kUint8) return Quantization{*scale, zero->as<uint8_t>()[0], false};
  if (zero->type == ort::kInt8) return Quantization{*scale, zero->as<int8_t>()[0], true};
  return {};
}

std::optional<Quantization> unsigned_quantization(const GraphView& graph, int node) {
  std::optional<Quantization> params = quantization(graph, node);
  return params && !params->is_signed ? params : std::nullopt;
}
