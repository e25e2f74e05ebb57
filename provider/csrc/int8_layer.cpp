#include "int8_layer.h"

#include <algorithm>

namespace {

// A constant with one number, or one for each output.
bool is_for_outputs(const ort::Tensor* tensor, const Layer& layer) {
  return tensor && tensor->shape.size() <= 1 && (tensor->count() == 1 || tensor->count() == layer.outputs);
}

// Constant fp32 numbers, one for each output, times a factor; "" or why they are none.
std::string read_scales(const GraphView& graph, int tensor, float factor, Layer& layer) {
  const ort::Tensor* scale = graph.constant(tensor);
  if (!scale || scale->type != ort::kFloat) return "the scale of its weight is no constant in fp32";
  if (!is_for_outputs(scale, layer)) return "the scale of its weight is neither one number nor one for each output";
  for (int64_t output = 0; output < layer.outputs; output++)
    // In the order of ONNX Runtime: the product of the two scales first.
    layer.scale.push_back(scale->as<float>()[scale->count() == 1 ? 0 : output] * factor);
  return "";
}

// The bias of a quantized Gemm: ONNX Runtime stores it in int32, with the product of both scales.
std::string read_quantized_bias(const GraphView& graph, int dequantize, Layer& layer) {
  constexpr char kRefusal[] = "its bias is not quantized to int32 with constant parameters";
  const ort::Tensor* bias = graph.constant(graph.input(dequantize, 0));
  const ort::Tensor* scale = graph.constant(graph.input(dequantize, 1));
  if (!bias || bias->type != ort::kInt32 || bias->count() != layer.outputs) return kRefusal;
  if (!scale || scale->type != ort::kFloat || (scale->count() != 1 && scale->count() != layer.outputs)) return kRefusal;
  if (graph.input(dequantize, 2) != kNone) {
    const ort::Tensor* zero = graph.constant(graph.input(dequantize, 2));
    if (!zero || zero->type != ort::kInt32) return kRefusal;
    for (int64_t i = 0; i < zero->count(); i++)
      if (zero->as<int32_t>()[i] != 0) return kRefusal;
  }
  for (int64_t i = 0; i < layer.outputs; i++)
    layer.bias[i] = (float)bias->as<int32_t>()[i] * scale->as<float>()[scale->count() == 1 ? 0 : i];
  layer.nodes.insert(dequantize);
  return "";
}

bool is_bias(const ort::Tensor* bias, const Layer& layer) {
  return bias && bias->type == ort::kFloat && bias->shape == std::vector<int64_t>{layer.outputs};
}

// The bias of an Add that follows, if there is one.
void read_added_bias(const GraphView& graph, Layer& layer) {
  layer.bias.assign((size_t)layer.outputs, 0.0f);
  int add = graph.only_consumer(layer.output, "Add");
  const ort::Tensor* bias = add == kNone ? nullptr : graph.constant(graph.other_input(add, layer.output));
  if (!is_bias(bias, layer)) return;
  layer.bias = bias->values<float>();
  layer.nodes.insert(add);
  layer.output = graph.output(add);
}

// DequantizeLinear of both, and MatMul or Gemm.
std::string read_qdq(const GraphView& graph, int product, const WeightTensors& tensors, Layer& layer) {
  layer.quantization = "QDQ";
  int dequantize = tensors.dequantize;
  if (graph.only_consumer(graph.output(dequantize), graph.node(product).type.c_str()) == kNone)
    return "other nodes use its weight, too";
  layer.dequantize = graph.producer(graph.input(product, 0), "DequantizeLinear");
  if (layer.dequantize == kNone) return "its input is not quantized";
  std::optional<Quantization> params = quantization(graph, layer.dequantize);
  if (!params) return "its input is not quantized to uint8 or int8 with one constant scale";
  layer.params = *params;
  layer.input = graph.input(layer.dequantize, 0);
  layer.nodes = {layer.dequantize, dequantize, product};
  int64_t axis = graph.integer(dequantize, "axis", 1), own = is_transposed(graph, product) ? 0 : 1;
  for (int tensor : {tensors.scale, tensors.zero})
    if (const ort::Tensor* numbers = graph.constant(tensor))
      if (numbers->count() != 1 && axis != own && axis != own - 2) return "its weight has a scale for each input";
  std::string refusal = read_scales(graph, tensors.scale, layer.params.scale, layer);
  return refusal.empty() ? read_bias(graph, product, layer) : refusal;
}

// QLinearMatMul, or ONNX Runtime's QGemm. Inputs, weight, outputs have scales and zero points, the bias is in int32.
std::string read_operator(const GraphView& graph, int product, const WeightTensors& tensors, Layer& layer) {
  layer.quantization = "QOperator";
  std::optional<Quantization> params = quantization(graph, graph.input(product, 1), graph.input(product, 2));
  if (!params) return "its input is not quantized to uint8 or int8 with one constant scale";
  bool is_gemm = graph.node(product).type == "QGemm";
  int scale = graph.input(product, is_gemm ? 7 : 6), zero = graph.input(product, is_gemm ? 8 : 7);
  layer.output_params = quantization(graph, scale, zero);
  if (!layer.output_params && (!is_gemm || scale != kNone))
    return "its output is not quantized to uint8 or int8 with one constant scale";
  layer.params = *params;
  layer.input = graph.input(product, 0);
  layer.nodes = {product};
  std::string refusal = read_scales(graph, tensors.scale, layer.params.scale, layer);
  layer.bias.assign((size_t)layer.outputs, 0.0f);
  int given = is_gemm ? graph.input(product, 6) : kNone;
  if (!refusal.empty() || given == kNone) return refusal;
  const ort::Tensor* bias = graph.constant(given);
  if (!bias || bias->type != ort::kInt32 || bias->count() != layer.outputs) return "its bias is no constant in int32";
  for (int64_t i = 0; i < layer.outputs; i++) layer.bias[i] = (float)bias->as<int32_t>()[i] * layer.scale[i];
  return "";
}

// MatMulInteger, Cast, and Mul by the product of both scales. Constant parameters are SparseML's form; those that a
// DynamicQuantizeLinear finds in each run are dynamic quantization.
std::string read_integers(const GraphView& graph, int product, Layer& layer) {
  layer.input = graph.input(product, 0);
  int zero = graph.input(product, 2), dynamic = graph.producer(zero, "DynamicQuantizeLinear");
  const ort::Tensor* constant = graph.constant(zero);
  layer.quantization = dynamic == kNone ? "integers" : "dynamic";
  if (dynamic != kNone) {
    const std::vector<int>& made = graph.node(dynamic).outputs;
    if (made.size() != 3 || made[0] != layer.input || made[1] == kNone || made[2] != zero)
      return "its zero point is that of another tensor";
    layer.params = {1.0f, 0, false};
    layer.dynamic_zero = zero;
  } else if (constant && constant->count() == 1 && constant->type == ort::kUint8) {
    layer.params = {1.0f, constant->as<uint8_t>()[0], false};
  } else if (constant && constant->count() == 1 && constant->type == ort::kInt8) {
    layer.params = {1.0f, constant->as<int8_t>()[0], true};
  } else {
    return "the zero point of its input is neither a constant nor of a DynamicQuantizeLinear";
  }
  int cast = graph.only_consumer(graph.output(product), "Cast");
  int scaling = cast == kNone ? kNone : graph.only_consumer(graph.output(cast), "Mul");
  if (scaling == kNone || graph.integer(cast, "to", 0) != ort::kFloat) return "its sums are not scaled in fp32";
  int scale = graph.other_input(scaling, graph.output(cast));
  if (dynamic != kNone) {
    int multiply = graph.producer(scale, "Mul"), own = graph.node(dynamic).outputs[1];
    if (multiply == kNone || (graph.input(multiply, 0) != own && graph.input(multiply, 1) != own))
      return "the scale of its sums is not that of its input times a constant";
    layer.dynamic_scale = scale;
    scale = graph.other_input(multiply, own);
  }
  std::string refusal = read_scales(graph, scale, 1.0f, layer);
  if (!refusal.empty()) return refusal;
  layer.output = graph.output(scaling);
  layer.nodes = {product, cast, scaling};
  read_added_bias(graph, layer);
  return "";
}

}  // namespace

bool is_transposed(const GraphView& graph, int product) {
  const std::string& type = graph.node(product).type;
  return (type == "Gemm" || type == "QGemm") && graph.integer(product, "transB", 0) != 0;
}

bool is_fused(const std::string& type) {
  return type == "Attention" || type == "QAttention" || type == "DynamicQuantizeMatMul" ||
         type == "MatMulIntegerToFloat";
}

std::optional<WeightTensors> weight_tensors(const GraphView& graph, int node) {
  const std::string& type = graph.node(node).type;
  auto input = [&](size_t index) { return graph.input(node, index); };
  if (type == "MatMulInteger") return WeightTensors{input(1), kNone, input(3), kNone};
  if (type == "QLinearMatMul" || type == "QGemm") return WeightTensors{input(3), input(4), input(5), kNone};
  if (is_fused(type)) return WeightTensors{input(1), kNone, kNone, kNone};
  if (type != "MatMul" && type != "Gemm") return {};
  int dequantize = graph.producer(input(1), "DequantizeLinear");
  if (dequantize == kNone) return WeightTensors{input(1), kNone, kNone, kNone};
  return WeightTensors{graph.input(dequantize, 0), graph.input(dequantize, 1), graph.input(dequantize, 2), dequantize};
}

std::string read_bias(const GraphView& graph, int product, Layer& layer) {
  layer.bias.assign((size_t)layer.outputs, 0.0f);
  int given = graph.input(product, 2), dequantize = graph.producer(given, "DequantizeLinear");
  if (dequantize != kNone) return read_quantized_bias(graph, dequantize, layer);
  if (given != kNone) {
    if (!is_bias(graph.constant(given), layer)) return "its bias is no constant in fp32 with a number for each output";
    layer.bias = graph.constant(given)->values<float>();
    return "";
  }
  read_added_bias(graph, layer);
  return "";
}

std::string read_int8(const GraphView& graph, int product, const WeightTensors& tensors, Layer& layer) {
  if (layer.inputs > kMaxInputs) return "it has more than 65536 inputs";
  layer.output = graph.output(product);
  const std::string& type = graph.node(product).type;
  if (type == "MatMulInteger") return read_integers(graph, product, layer);
  return tensors.dequantize == kNone ? read_operator(graph, product, tensors, layer)
                                     : read_qdq(graph, product, tensors, layer);
}
