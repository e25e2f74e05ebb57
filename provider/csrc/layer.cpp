#include "layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace {

// Of an fp32 layer, in nanoseconds for each token: ONNX Runtime's product for each weight, and the sparse one for each
// that is not 0. On AMD Zen 5 it is as fast with 70 % of the weights; it has to be a little faster.
constexpr double kFloatDense = 0.0083, kFloatWeight = 0.0115, kFloatLargest = 0.65;

// Whether a product is a Gemm with a weight [outputs][inputs].
bool is_transposed(const GraphView& graph, int product) {
  return graph.node(product).type == "Gemm" && graph.integer(product, "transB", 0) != 0;
}

// A weight [outputs][inputs] as [inputs][outputs].
template <typename T>
std::vector<T> transposed(const T* weight, int64_t inputs, int64_t outputs) {
  std::vector<T> turned((size_t)(inputs * outputs));
  for (int64_t output = 0; output < outputs; output++)
    for (int64_t input = 0; input < inputs; input++) turned[input * outputs + output] = weight[output * inputs + input];
  return turned;
}

// How many weights of each output are not 0, in a weight [inputs][outputs].
template <typename T>
std::vector<int64_t> count_weights(const T* weight, int64_t inputs, int64_t outputs) {
  std::vector<int64_t> counts((size_t)outputs, 0);
  std::vector<uint8_t> some((size_t)outputs);
  for (int64_t first = 0; first < inputs; first += 255) {
    std::fill(some.begin(), some.end(), (uint8_t)0);
    for (int64_t input = first; input < std::min(first + 255, inputs); input++)
      for (int64_t output = 0; output < outputs; output++) some[output] += weight[input * outputs + output] != 0;
    for (int64_t output = 0; output < outputs; output++) counts[output] += some[output];
  }
  return counts;
}

// Calls add(output) for each weight that is not 0 of an input. Most of eight int8 weights are.
template <typename Add>
void each_output(const int8_t* row, int64_t outputs, const Add& add) {
  int64_t output = 0;
  for (; output + 8 <= outputs; output += 8) {
    uint64_t eight, low = 0x7f7f7f7f7f7f7f7f;
    std::memcpy(&eight, row + output, 8);
    // The highest bit of each byte that is not 0. The machine is little-endian: the first byte is the lowest.
    for (uint64_t bits = (((eight & low) + low) | eight) & ~low; bits; bits &= bits - 1)
      add(output + __builtin_ctzll(bits) / 8);
  }
  for (; output < outputs; output++)
    if (row[output] != 0) add(output);
}
template <typename Add>
void each_output(const float* row, int64_t outputs, const Add& add) {
  for (int64_t output = 0; output < outputs; output++)
    if (row[output] != 0) add(output);
}

// The non-zero weights of a weight [inputs][outputs].
template <typename T>
SparseRows rows_of(const T* weight, int64_t inputs, const std::vector<int64_t>& counts, std::vector<T>& values) {
  int64_t outputs = (int64_t)counts.size();
  SparseRows rows{inputs, outputs, 1, {0}, {}};
  for (int64_t count : counts) rows.starts.push_back(rows.starts.back() + count);
  rows.positions.resize((size_t)rows.starts.back());
  values.resize(rows.positions.size());
  std::vector<int64_t> next(rows.starts.begin(), rows.starts.end() - 1);
  for (int64_t input = 0; input < inputs; input++) {
    const T* row = weight + input * outputs;
    each_output(row, outputs, [&](int64_t output) {
      int64_t entry = next[output]++;
      rows.positions[entry] = (uint16_t)input;
      values[entry] = row[output];
    });
  }
  return rows;
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
    some.positions.insert(some.positions.end(), layer.rows.positions.begin() + begin, layer.rows.positions.begin() + end);
    values.insert(values.end(), layer.values.begin() + begin, layer.values.begin() + end);
    some.starts.push_back((int64_t)values.size());
  }
  LayerWork work = layer_work(some, values.data());
  double factor = (double)layer.outputs / (double)some.outputs;
  return layer_cost(layer.rows, {work.blocks * factor, work.windows * factor});
}

// Scales of the weight, one for each output; "" or why they are none.
// outputs_axis: dimension of the weight.
std::string read_scales(const GraphView& graph, int dequantize, int64_t outputs_axis, Layer& layer) {
  const ort::Tensor* scale = graph.constant(graph.input(dequantize, 1));
  if (!scale || scale->type != ort::kFloat) return "the scale of its weight is no constant in fp32";
  if (scale->count() != 1 && (scale->shape.size() != 1 || scale->count() != layer.outputs))
    return "the scale of its weight is neither one number nor one for each output";
  int64_t axis = graph.integer(dequantize, "axis", 1);
  if (scale->count() != 1 && axis != outputs_axis && axis != outputs_axis - 2) return "its weight has a scale for each input";
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
  const ort::Tensor *bias = graph.constant(graph.input(dequantize, 0)), *scale = graph.constant(graph.input(dequantize, 1));
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

// The bias, of a Gemm or of an Add that follows a MatMul, if there is one; "" or why it cannot be taken.
std::string read_bias(const GraphView& graph, int product, Layer& layer) {
  layer.bias.assign((size_t)layer.outputs, 0.0f);
  auto is_bias = [&](const ort::Tensor* bias) {
    return bias && bias->type == ort::kFloat && bias->shape == std::vector<int64_t>{layer.outputs};
  };
  int given = graph.input(product, 2), dequantize = graph.producer(given, "DequantizeLinear");
  if (dequantize != kNone) return read_quantized_bias(graph, dequantize, layer);
  if (given != kNone) {
    if (!is_bias(graph.constant(given))) return "its bias is no constant in fp32 with a number for each output";
    layer.bias = graph.constant(given)->values<float>();
    return "";
  }
  int add = graph.only_consumer(layer.output, "Add");
  const ort::Tensor* bias = add == kNone ? nullptr : graph.constant(graph.other_input(add, layer.output));
  if (!is_bias(bias)) return "";
  layer.bias = bias->values<float>();
  layer.nodes.insert(add);
  layer.output = graph.output(add);
  return "";
}

// Fills in what a layer costs, and its non-zero weights unless they are too many in any pattern.
void read_weight(const int8_t* weight, const std::vector<int64_t>& counts, bool always, Layer& layer) {
  double weights = (1 - layer.zeros) * (double)layer.inputs * (double)layer.outputs;
  layer.cost = layer_cost({layer.inputs, layer.outputs, 1, {}, {}}, {weights / 4, weights / kWindowBytes});
  if (layer.sparse_cost() >= layer.cost.dense && !always) return;
  layer.rows = rows_of(weight, layer.inputs, counts, layer.values);
  // To pack a weight in windows takes most of the time in which a session is created.
  layer.cost = estimate(layer);
  if (std::abs(layer.sparse_cost() / layer.cost.dense - 1) < 0.15)
    layer.cost = layer_cost(layer.rows, layer_work(layer.rows, layer.values.data()));
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
  if (graph.only_consumer(graph.output(dequantize), graph.node(product).type.c_str()) == kNone) return "other nodes use its weight, too";
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
  try {
    read_weight(weight, counts, always, layer);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// x * (1 + erf(x / sqrt 2)) * 0.5, with the factors in any order: its nodes and its output.
std::optional<Tail> find_gelu(const GraphView& graph, int x) {
  int whole = graph.only_consumer(x, "Gelu");
  if (whole != kNone && graph.text(whole, "approximate") != "tanh") return Tail{{whole}, graph.output(whole), true, {}};
  std::vector<int> readers = graph.consumers(x);
  if (graph.is_used_elsewhere(x) || readers.size() != 2) return {};
  auto is_near = [&](int tensor, double value) {
    std::optional<float> number = graph.number(tensor);
    return number && std::abs(*number - value) <= 1e-6;
  };
  auto is_half = [&](int node, int tensor) { return is_near(graph.other_input(node, tensor), 0.5); };
  for (int turn = 0; turn < 2; turn++, std::swap(readers[0], readers[1])) {
    int quotient = readers[0], factor = readers[1];
    const std::string& type = graph.node(quotient).type;
    bool divides = type == "Div" && graph.input(quotient, 0) == x && is_near(graph.input(quotient, 1), std::sqrt(2.0));
    bool multiplies = type == "Mul" && is_near(graph.other_input(quotient, x), std::sqrt(0.5));
    if ((!divides && !multiplies) || graph.node(factor).type != "Mul") continue;
    int erf = graph.only_consumer(graph.output(quotient), "Erf");
    int add = erf == kNone ? kNone : graph.only_consumer(graph.output(erf), "Add");
    if (add == kNone || !is_near(graph.other_input(add, graph.output(erf)), 1.0)) continue;
    int sum = graph.output(add), first = graph.only_consumer(sum, "Mul");
    if (first == kNone) continue;
    int last = kNone;
    if (first == factor) {  // (x * sum) * 0.5
      last = graph.only_consumer(graph.output(first), "Mul");
      if (last != kNone && !is_half(last, graph.output(first))) last = kNone;
    } else if (is_half(first, sum)) {  // (sum * 0.5) * x
      last = graph.only_consumer(graph.output(first), "Mul");
      if (last != factor) last = kNone;
    } else if (is_half(factor, x)) {  // (x * 0.5) * sum
      last = graph.only_consumer(graph.output(factor), "Mul");
      if (last != first) last = kNone;
    }
    if (last != kNone) return Tail{{quotient, erf, add, first, factor, last}, graph.output(last), true, {}};
  }
  return {};
}

}  // namespace

bool Layer::pays() const {
  return can_be_taken() && (is_float() ? zeros >= 1 - kFloatLargest : sparse_cost() < cost.dense);
}

std::vector<Layer> find_layers(const GraphView& graph, bool always) {
  std::vector<Layer> layers;
  for (int node = 0; node < (int)graph.nodes().size(); node++) {
    const std::string& type = graph.node(node).type;
    if (type != "MatMul" && type != "Gemm") continue;
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
    bool is_int8 = weight->type == ort::kInt8 && dequantize != kNone;
    bool is_float = weight->type == ort::kFloat && dequantize == kNone;
    layer.form = is_int8 ? "int8" : is_float ? "fp32" : "other";
    bool is_plain = type == "MatMul" || (graph.integer(node, "transA", 0) == 0 &&
                                         graph.number(node, "alpha", 1.0f) == 1 && graph.number(node, "beta", 1.0f) == 1);
    if (!is_plain) {
      layer.refusal = "its Gemm has alpha, beta or transA";
    } else if (weight->count() == 0) {
      layer.refusal = "it has no inputs or outputs";
    } else if (is_int8) {
      read(weight->as<int8_t>(), [&](const int8_t* values, const std::vector<int64_t>& counts) {
        return read_int8(graph, node, dequantize, values, counts, always, layer);
      });
    } else if (is_float) {
      read(weight->as<float>(), [&](const float* values, const std::vector<int64_t>& counts) {
        return read_float(graph, node, values, counts, always, layer);
      });
    } else {
      layer.refusal = "there are kernels for fp32 weights, and for int8 weights in QDQ form";
    }
    if (layer.can_be_taken() && graph.constant(layer.input)) layer.refusal = "its input is a constant";
    layers.push_back(std::move(layer));
  }
  return layers;
}

Tail find_tail(const GraphView& graph, const Layer& layer) {
  Tail tail = find_gelu(graph, layer.output).value_or(Tail{{}, layer.output, false, {}});
  if (layer.is_float()) return tail;
  int quantize = graph.only_consumer(tail.output, "QuantizeLinear");
  tail.quantization = unsigned_quantization(graph, quantize);
  if (tail.quantization) {
    tail.nodes.insert(quantize);
    tail.output = graph.output(quantize);
  }
  return tail;
}

namespace {

template <typename To, typename From>
void append(To& to, const From& from) {
  to.insert(to.end(), from.begin(), from.end());
}

SparseRows concatenated(const std::vector<const Layer*>& layers) {
  SparseRows rows{layers[0]->inputs, 0, 1, {0}, {}};
  for (const Layer* layer : layers) {
    int64_t entries = (int64_t)rows.positions.size();
    for (size_t row = 1; row < layer->rows.starts.size(); row++)
      rows.starts.push_back(entries + layer->rows.starts[row]);
    append(rows.positions, layer->rows.positions);
    rows.outputs += layer->outputs;
  }
  return rows;
}

}  // namespace

std::unique_ptr<Int8Linear> pack(const std::vector<const Layer*>& layers, const std::vector<QuantParams>& params,
                                 bool gelu) {
  std::vector<int8_t> values;
  LayerOutputs outputs{{}, {}, {}, gelu};
  LayerCost cost{};
  for (size_t i = 0; i < layers.size(); i++) {
    append(values, layers[i]->values);
    cost.blocks += layers[i]->cost.blocks;
    cost.windows += layers[i]->cost.windows;
    append(outputs.scale, layers[i]->scale);
    append(outputs.bias, layers[i]->bias);
    if (!params.empty()) outputs.output_params.resize(outputs.scale.size(), params[i]);
  }
  return std::make_unique<Int8Linear>(concatenated(layers), values.data(), cost, std::move(outputs),
                                      layers[0]->params.zero);
}

void pack(const std::vector<const Layer*>& layers, FloatLayers& to) {
  std::vector<float> values, bias;
  for (const Layer* layer : layers) {
    append(values, layer->float_values);
    append(bias, layer->bias);
  }
  to.add(concatenated(layers), values.data(), std::move(bias));
}
