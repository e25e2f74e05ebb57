#include "layer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "layer_weight.h"

namespace {

// Of an fp32 layer, in nanoseconds for each token: ONNX Runtime's product for each weight, and the sparse one for each
// that is not 0. On AMD Zen 5 it is as fast with 70 % of the weights; it has to be a little faster.
constexpr double kFloatDense = 0.0083, kFloatWeight = 0.0115, kFloatLargest = 0.65;

// Whether a product is a Gemm with a weight [outputs][inputs].
bool is_transposed(const GraphView& graph, int product) {
  return graph.node(product).type == "Gemm" && graph.integer(product, "transB", 0) != 0;
}

// Scales of the weight, one for each output; "" or why they are none.
// outputs_axis: dimension of the weight.
std::string read_scales(const GraphView& graph, int dequantize, int64_t outputs_axis, Layer& layer) {
  const ort::Tensor* scale = graph.constant(graph.input(dequantize, 1));
  if (!scale || scale->type != ort::kFloat) return "the scale of its weight is no constant in fp32";
  if (scale->count() != 1 && (scale->shape.size() != 1 || scale->count() != layer.outputs))
    return "the scale of its weight is neither one number nor one for each output";
  int64_t axis = graph.integer(dequantize, "axis", 1);
  if (scale->count() != 1 && axis != outputs_axis && axis != outputs_axis - 2)
    return "its weight has a scale for each input";
  if (graph.input(dequantize, 2) != kNone) {
    const ort::Tensor* zero = graph.constant(graph.input(dequantize, 2));
    if (!zero || zero->type != ort::kInt8) return "the zero point of its weight is no constant in int8";
    auto values = zero->values<int8_t>();
    if (std::any_of(values.begin(), values.end(), [](int8_t value) { return value != 0; }))
      return "its weight is asymmetric: a weight of 0 is not the integer 0";
  }
  for (int64_t output = 0; output < layer.outputs; output++)
    // In the order of ONNX Runtime: the product of the two scales first.
    layer.scale.push_back(scale->as<float>()[scale->count() == 1 ? 0 : output] * layer.params.scale);
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

// The bias, of a Gemm or of an Add that follows a MatMul, if there is one; "" or why it cannot be taken.
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

// What a layer costs, estimated from some of its outputs.
LayerCost estimate(const Layer& layer) {
  constexpr int64_t kPart = 8, kLeast = 128;
  int64_t every = std::min(kPart, layer.outputs / kLeast);
  if (every <= 1) return layer_cost(layer.rows, layer_work(layer.rows, layer.values.data()));
  SparseRows some{layer.inputs, 0, 1, {0}, {}};
  std::vector<int8_t> values;
  for (int64_t row = 0; row < layer.outputs; row += every, some.outputs++) {
    int64_t begin = layer.rows.starts[row], end = layer.rows.starts[row + 1];
    auto first = layer.rows.positions.begin();
    some.positions.insert(some.positions.end(), first + begin, first + end);
    values.insert(values.end(), layer.values.begin() + begin, layer.values.begin() + end);
    some.starts.push_back((int64_t)values.size());
  }
  LayerWork work = layer_work(some, values.data());
  double factor = (double)layer.outputs / (double)some.outputs;
  return layer_cost(layer.rows, {work.blocks * factor, work.windows * factor});
}

// Fills in what a layer costs, and its non-zero weights unless they are too many in any pattern. "" or why it cannot be
// taken.
std::string read_weight(const int8_t* weight, const std::vector<int64_t>& counts, bool always, Layer& layer) {
  double weights = (1 - layer.zeros) * (double)layer.inputs * (double)layer.outputs;
  layer.cost = layer_cost({layer.inputs, layer.outputs, 1, {}, {}}, {weights / 4, weights / kWindowBytes});
  if (layer.sparse_cost() >= layer.cost.dense && !always) return "";
  layer.rows = rows_of(weight, layer.inputs, counts, layer.values);
  try {
    // To pack a weight in windows takes most of the time in which a session is created.
    layer.cost = estimate(layer);
    if (std::abs(layer.sparse_cost() / layer.cost.dense - 1) < 0.15)
      layer.cost = layer_cost(layer.rows, layer_work(layer.rows, layer.values.data()));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// Fills an fp32 layer in from its MatMul or Gemm; "" or why it cannot be taken.
std::string read_float(const GraphView& graph, int product, const float* weight, const std::vector<int64_t>& counts,
                       bool always, Layer& layer) {
  if (layer.inputs > kMaxInputs) return "it has more than 65536 inputs";
  layer.input = graph.input(product, 0);
  layer.output = graph.output(product);
  layer.nodes = {product};
  std::string refusal = read_bias(graph, product, layer);
  if (!refusal.empty()) return refusal;
  double weights = (double)layer.inputs * (double)layer.outputs, sparse = (1 - layer.zeros) * kFloatWeight * weights;
  layer.cost = {kFloatDense * weights, sparse, std::numeric_limits<double>::infinity()};
  if (always || layer.pays()) layer.rows = rows_of(weight, layer.inputs, counts, layer.float_values);
  return "";
}

// The same for an int8 layer.
std::string read_int8(const GraphView& graph, int product, int dequantize, const int8_t* weight,
                      const std::vector<int64_t>& counts, bool always, Layer& layer) {
  if (graph.only_consumer(graph.output(dequantize), graph.node(product).type.c_str()) == kNone)
    return "other nodes use its weight, too";
  layer.dequantize = graph.producer(graph.input(product, 0), "DequantizeLinear");
  if (layer.dequantize == kNone) return "its input is not quantized";
  std::optional<Quantization> params = unsigned_quantization(graph, layer.dequantize);
  if (!params) return "its input is not quantized to uint8 with one constant scale";
  if (layer.inputs > kMaxInputs) return "it has more than 65536 inputs";
  layer.params = *params;
  layer.input = graph.input(layer.dequantize, 0);
  layer.output = graph.output(product);
  layer.nodes = {layer.dequantize, dequantize, product};
  std::string refusal = read_scales(graph, dequantize, is_transposed(graph, product) ? 0 : 1, layer);
  if (refusal.empty()) refusal = read_bias(graph, product, layer);
  if (!refusal.empty()) return refusal;
  return read_weight(weight, counts, always, layer);
}

// The same for a layer of integers: MatMulInteger, Cast and Mul by the product of both scales, as SparseML writes it.
std::string read_integers(const GraphView& graph, int product, const int8_t* weight, const std::vector<int64_t>& counts,
                          bool always, Layer& layer) {
  if (layer.inputs > kMaxInputs) return "it has more than 65536 inputs";
  const ort::Tensor* zero = graph.constant(graph.input(product, 2));
  if (!zero || zero->type != ort::kUint8 || zero->count() != 1)
    return "the zero point of its input is not one constant in uint8, as in dynamic quantization";
  if (graph.input(product, 3) != kNone) {
    const ort::Tensor* weight_zero = graph.constant(graph.input(product, 3));
    if (!weight_zero || weight_zero->type != ort::kInt8) return "the zero point of its weight is no constant in int8";
    for (int8_t value : weight_zero->values<int8_t>())
      if (value != 0) return "its weight is asymmetric: a weight of 0 is not the integer 0";
  }
  int cast = graph.only_consumer(graph.output(product), "Cast");
  int scaling = cast == kNone ? kNone : graph.only_consumer(graph.output(cast), "Mul");
  if (scaling == kNone || graph.integer(cast, "to", 0) != ort::kFloat) return "its sums are not scaled in fp32";
  const ort::Tensor* scale = graph.constant(graph.other_input(scaling, graph.output(cast)));
  bool fits = scale && scale->type == ort::kFloat && scale->shape.size() <= 1;
  if (!fits || (scale->count() != 1 && scale->count() != layer.outputs))
    return "the scale of its sums is no constant, neither one number nor one for each output";
  layer.params = {1.0f, zero->as<uint8_t>()[0], false};
  layer.input = graph.input(product, 0);
  layer.output = graph.output(scaling);
  layer.nodes = {product, cast, scaling};
  for (int64_t i = 0; i < layer.outputs; i++) layer.scale.push_back(scale->as<float>()[scale->count() == 1 ? 0 : i]);
  read_added_bias(graph, layer);
  return read_weight(weight, counts, always, layer);
}

}  // namespace

bool Layer::pays() const {
  return can_be_taken() && (is_float() ? zeros >= 1 - kFloatLargest : sparse_cost() < cost.dense);
}

std::vector<Layer> find_layers(const GraphView& graph, bool always) {
  std::vector<Layer> layers;
  for (int node = 0; node < (int)graph.nodes().size(); node++) {
    const std::string& type = graph.node(node).type;
    bool is_integer = type == "MatMulInteger";
    if (type != "MatMul" && type != "Gemm" && !is_integer) continue;
    int source = graph.input(node, 1), dequantize = graph.producer(source, "DequantizeLinear");
    int tensor = dequantize == kNone ? source : graph.input(dequantize, 0);
    const ort::Tensor* weight = graph.constant(tensor);
    if (!weight || weight->shape.size() != 2) continue;
    Layer layer;
    layer.name = graph.name(tensor);
    bool is_turned = is_transposed(graph, node);
    layer.inputs = weight->shape[is_turned ? 1 : 0];
    layer.outputs = weight->shape[is_turned ? 0 : 1];
    auto read = [&](const auto* stored, const auto& rest) {
      auto turned = is_turned ? transposed(stored, layer.inputs, layer.outputs) : decltype(transposed(stored, 0, 0))();
      const auto* values = is_turned ? turned.data() : stored;
      std::vector<int64_t> counts = count_weights(values, layer.inputs, layer.outputs);
      int64_t nonzeros = std::accumulate(counts.begin(), counts.end(), int64_t{0});
      layer.zeros = 1 - (double)nonzeros / (double)weight->count();
      layer.refusal = rest(values, counts);
    };
    bool is_int8 = weight->type == ort::kInt8 && (dequantize != kNone) != is_integer;
    bool is_float = weight->type == ort::kFloat && dequantize == kNone;
    layer.form = is_int8 ? "int8" : is_float ? "fp32" : "other";
    bool is_plain = type != "Gemm" ||
                    (graph.integer(node, "transA", 0) == 0 && graph.number(node, "alpha", 1.0f) == 1 &&
                     graph.number(node, "beta", 1.0f) == 1);
    if (!is_plain) {
      layer.refusal = "its Gemm has alpha, beta or transA";
    } else if (weight->count() == 0) {
      layer.refusal = "it has no inputs or outputs";
    } else if (is_int8) {
      read(weight->as<int8_t>(), [&](const int8_t* values, const std::vector<int64_t>& counts) {
        return is_integer ? read_integers(graph, node, values, counts, always, layer)
                          : read_int8(graph, node, dequantize, values, counts, always, layer);
      });
    } else if (is_float) {
      read(weight->as<float>(), [&](const float* values, const std::vector<int64_t>& counts) {
        return read_float(graph, node, values, counts, always, layer);
      });
    } else {
      layer.refusal = "there are kernels for fp32 and for symmetric int8 weights";
    }
    if (layer.can_be_taken() && graph.constant(layer.input)) layer.refusal = "its input is a constant";
    layers.push_back(std::move(layer));
  }
  return layers;
}
