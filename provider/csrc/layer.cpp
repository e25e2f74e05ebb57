#include "layer.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <type_traits>

#include "int8_layer.h"
#include "layer_weight.h"

namespace {

// Of an fp32 layer, in nanoseconds for each token: ONNX Runtime's product for each weight, and the sparse one for each
// that is not 0. On AMD Zen 5 it is as fast with 70 % of the weights; it has to be a little faster.
constexpr double kFloatDense = 0.0083, kFloatWeight = 0.0115, kFloatLargest = 0.65;

// What a layer costs, estimated from some of its outputs: to pack all of them would take as long as the packing itself.
// Of BERT base and MiniLM at 80 to 90 % zeros it is wrong by 3 % in blocks and by 10 % in windows, at most.
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

// Fills in what an int8 layer costs, and its non-zero weights unless they are too many in any pattern. "" or why it
// cannot be taken. weight: int8 or uint8; zeros: of each output.
template <typename T>
std::string read_weight(const T* weight, const std::vector<T>& zeros, const std::vector<int64_t>& counts, bool always,
                        Layer& layer) {
  double weights = (1 - layer.zeros) * (double)layer.inputs * (double)layer.outputs;
  layer.cost = layer_cost({layer.inputs, layer.outputs, 1, {}, {}}, {weights / 4, weights / kWindowBytes});
  if (layer.sparse_cost() >= layer.cost.dense && !always) return "";
  bool is_symmetric = std::is_signed_v<T> && std::count(zeros.begin(), zeros.end(), 0) == layer.outputs;
  layer.rows = is_symmetric ? rows_of((const int8_t*)weight, layer.inputs, counts, layer.values)
                            : rows_of(weight, zeros, layer.inputs, counts, layer.values);
  layer.is_split = layer.rows.positions.size() > (size_t)std::accumulate(counts.begin(), counts.end(), int64_t{0});
  try {
    layer.cost = estimate(layer);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// Adds the Reshapes to two dimensions and back, if they are there and the shapes are constant.
void read_reshapes(const GraphView& graph, Layer& layer) {
  int before = graph.producer(layer.input, "Reshape"), after = graph.only_consumer(layer.output, "Reshape");
  if (before == kNone || after == kNone || graph.input(after, 0) != layer.output) return;
  const ort::Tensor *flat = graph.constant(graph.input(before, 1)), *shape = graph.constant(graph.input(after, 1));
  for (const ort::Tensor* numbers : {flat, shape})
    if (!numbers || numbers->type != ort::kInt64) return;
  auto rows = flat->values<int64_t>(), sizes = shape->values<int64_t>();
  bool is_static = std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size > 0; });
  if (!is_static || rows.size() != 2 || rows[0] <= 0 || rows[1] != layer.inputs) return;
  if (graph.is_used_elsewhere(layer.input) || graph.consumers(layer.input).size() != 1) return;
  layer.nodes.insert({before, after});
  layer.input = graph.input(before, 0);
  layer.output = graph.output(after);
  layer.output_shape = sizes;
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
  read_reshapes(graph, layer);
  double weights = (double)layer.inputs * (double)layer.outputs, sparse = (1 - layer.zeros) * kFloatWeight * weights;
  layer.cost = {kFloatDense * weights, sparse, std::numeric_limits<double>::infinity()};
  if (always || layer.pays()) layer.rows = rows_of(weight, layer.inputs, counts, layer.float_values);
  return "";
}

}  // namespace

bool Layer::pays() const {
  return can_be_taken() && (is_float() ? zeros >= 1 - kFloatLargest : sparse_cost() < cost.dense);
}

std::vector<Layer> find_layers(const GraphView& graph, bool always) {
  std::vector<Layer> layers;
  for (int node = 0; node < (int)graph.nodes().size(); node++) {
    std::optional<WeightTensors> tensors = weight_tensors(graph, node);
    const ort::Tensor* weight = tensors ? graph.constant(tensors->weight) : nullptr;
    if (!weight || weight->shape.size() != 2) continue;
    const std::string& type = graph.node(node).type;
    Layer layer;
    layer.name = graph.name(tensors->weight);
    bool is_turned = is_transposed(graph, node), is_plain_product = type == "MatMul" || type == "Gemm";
    layer.inputs = weight->shape[is_turned ? 1 : 0];
    layer.outputs = weight->shape[is_turned ? 0 : 1];
    auto read = [&](const auto* stored, const auto& zeros, const auto& rest) {
      auto turned = is_turned ? transposed(stored, layer.inputs, layer.outputs) : decltype(transposed(stored, 0, 0))();
      const auto* values = is_turned ? turned.data() : stored;
      std::vector<int64_t> counts = count_weights(values, zeros, layer.inputs);
      int64_t nonzeros = std::accumulate(counts.begin(), counts.end(), int64_t{0});
      layer.zeros = 1 - (double)nonzeros / (double)weight->count();
      layer.refusal = rest(values, counts);
    };
    bool is_int8 = (weight->type == ort::kInt8 || weight->type == ort::kUint8) &&
                   (tensors->dequantize != kNone || !is_plain_product);
    bool is_float = weight->type == ort::kFloat && is_plain_product && tensors->dequantize == kNone;
    layer.form = is_int8 ? "int8" : is_float ? "fp32" : "other";
    bool is_plain = graph.integer(node, "transA", 0) == 0 && graph.number(node, "alpha", 1.0f) == 1 &&
                    graph.number(node, "beta", 1.0f) == 1;
    auto read_integers = [&](const auto* stored, auto zeros) {
      layer.refusal = read_zeros(graph, *tensors, zeros);
      if (!layer.refusal.empty()) return;
      read(stored, zeros, [&](const auto* values, const std::vector<int64_t>& counts) {
        std::string refusal = read_int8(graph, node, *tensors, layer);
        return refusal.empty() ? read_weight(values, zeros, counts, always, layer) : refusal;
      });
    };
    if (is_fused(type)) {
      layer.refusal = "it is in a " + type + " of ONNX Runtime's optimizations: use the file that was optimized";
    } else if (!is_plain) {
      layer.refusal = "its Gemm has alpha, beta or transA";
    } else if (weight->count() == 0) {
      layer.refusal = "it has no inputs or outputs";
    } else if (is_int8 && weight->type == ort::kUint8) {
      read_integers(weight->as<uint8_t>(), std::vector<uint8_t>((size_t)layer.outputs, 0));
    } else if (is_int8) {
      read_integers(weight->as<int8_t>(), std::vector<int8_t>((size_t)layer.outputs, 0));
    } else if (is_float) {
      auto rest = [&](const float* values, const std::vector<int64_t>& counts) {
        return read_float(graph, node, values, counts, always, layer);
      };
      read(weight->as<float>(), std::vector<float>((size_t)layer.outputs, 0), rest);
    } else {
      layer.refusal = "there are kernels for weights in fp32, int8 and uint8";
    }
    if (layer.can_be_taken() && graph.constant(layer.input)) layer.refusal = "its input is a constant";
    layers.push_back(std::move(layer));
  }
  return layers;
}
