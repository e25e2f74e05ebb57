// Quantized attention as a block, from the layers of query, key and value to the next layer's integers.
#include <algorithm>
#include <map>

#include "blocks.h"
#include "cpu.h"

using namespace ort;

namespace {

using Order = std::vector<int64_t>;

// How a tensor of one layout becomes another one, by nodes that move data, quantize or dequantize with one set of
// parameters. ONNX Runtime adds QuantizeLinear and DequantizeLinear around each node that moves data.
struct Path {
  std::set<int> nodes;
  int tensor;                          // where it ends
  int shape = kNone;                   // of its Reshape
  Order order{0, 1, 2, 3};             // of the Transposes together
  bool transposes = false;
  std::optional<Quantization> params;  // of its QuantizeLinear nodes
  std::optional<float> scale;          // of its last DequantizeLinear
};

// Adds a QuantizeLinear or DequantizeLinear; false if its parameters are others.
bool add_quantization(const GraphView& graph, int node, Path& path) {
  std::optional<Quantization> params = quantization(graph, node);
  if (!params || (path.params && !(*path.params == *params))) return false;
  path.params = params;
  return true;
}

// From a factor of a product back to a Linear layer.
std::optional<Path> trace_back(const GraphView& graph, int tensor, const std::map<int, const Layer*>& layers) {
  Path path{{}, tensor};
  std::optional<Quantization> last;
  while (!layers.count(path.tensor)) {
    int node = graph.producer(path.tensor);
    if (node == kNone) return {};
    const std::string& type = graph.node(node).type;
    if (type == "DequantizeLinear" && !path.scale) {
      last = quantization(graph, node);
      if (!last) return {};
      path.scale = last->scale;  // may be another one: it can contain the factor of the scores
    } else if (type == "QuantizeLinear" || type == "DequantizeLinear") {
      if (!add_quantization(graph, node, path)) return {};
    } else if (type == "Transpose" && path.shape == kNone) {
      Order permutation = graph.integers(node, "perm");
      if (permutation.size() != 4) return {};
      for (int64_t& axis : path.order) axis = permutation[axis];
      path.transposes = true;
    } else if (type == "Reshape" && path.shape == kNone) {
      path.shape = graph.input(node, 1);
    } else {
      return {};
    }
    path.nodes.insert(node);
    path.tensor = graph.input(node, 0);
  }
  if (path.shape == kNone || !path.params || !last || !path.params->same_integers(*last)) return {};
  return path;
}

// From the context of all heads to the integers that the next layer reads.
std::optional<Path> trace_context(const GraphView& graph, int tensor) {
  Path path{{}, tensor};
  for (;;) {
    const std::vector<int>& readers = graph.consumers(path.tensor);
    if (readers.size() != 1 || graph.is_used_elsewhere(path.tensor)) return {};
    int node = readers[0];
    const std::string& type = graph.node(node).type;
    if (type == "QuantizeLinear" || type == "DequantizeLinear") {
      if (!add_quantization(graph, node, path)) return {};
    } else if (type == "Transpose" && !path.transposes) {
      path.order = graph.integers(node, "perm");
      path.transposes = true;
    } else if (type == "Reshape" && path.transposes && path.shape == kNone) {
      path.shape = graph.input(node, 1);
    } else {
      return {};
    }
    path.nodes.insert(node);
    path.tensor = graph.output(node);
    if (type == "QuantizeLinear" && path.shape != kNone) break;
  }
  return path.order == Order{0, 2, 1, 3} && !path.params->is_signed ? std::optional(path) : std::nullopt;
}

class AttentionPlan : public Plan {
 public:
  std::unique_ptr<Int8Linear> layer;  // query, key and value side by side
  Attention attention{};
  Integers head_shapes[3], output_shape;
  size_t mask;

  size_t read(const std::string& name) { return add_input(name); }
  void write(const std::string& name) { add_output(name); }

  void compute(const void* api, KernelContext* context) const override {
    Tensor x = input(api, context, 0);
    check_shape(x);
    check(x.shape.size() == 3 && x.shape[2] == layer->inputs(), "the input is no [batch, length, width of the weight]");
    int64_t batch = x.shape[0], length = x.shape[1], width = layer->outputs() / 3;
    check(length <= kMaxKeys, "the sequence is longer than 32768");
    std::vector<int64_t> heads = reshaped({batch, length, width}, numbers(api, context, head_shapes[0]));
    check(heads.size() == 4 && heads[0] == batch && heads[1] == length, "query has not the shape [batch, length, ..]");
    for (const Integers& shape : head_shapes)
      check(reshaped({batch, length, width}, numbers(api, context, shape)) == heads,
            "query, key and value have different shapes");
    void* y = output(api, context, 0, reshaped(heads, numbers(api, context, output_shape)));
    if (x.count() == 0) return;
    thread_local std::vector<uint8_t> integers;
    integers.resize((size_t)(batch * length * 3 * width));
    uint8_t* memory = integers.data();
    layer->run(api, context, x.as<uint8_t>(), batch * length, memory);

    Attention a = attention;
    a.query = memory;
    a.key = memory + width;
    a.value = memory + 2 * width;
    a.query_stride = a.key_stride = a.value_stride = 3 * width;
    a.key_flip = a.value_flip = 0x80;
    a.length = length;
    a.heads = heads[2];
    a.head_size = heads[3];
    a.output = (uint8_t*)y;
    Tensor added = input(api, context, mask);
    check(added.shape.size() <= 4, "the mask has more than four dimensions");
    std::vector<int64_t> shape(4 - added.shape.size(), 1);
    shape.insert(shape.end(), added.shape.begin(), added.shape.end());
    check((shape[0] == 1 || shape[0] == batch) && (shape[1] == 1 || shape[1] == a.heads) &&
              (shape[2] == 1 || shape[2] == length),
          "the mask does not fit the scores");
    shape[3] = length;
    thread_local std::vector<float> mask_memory;
    const float* masks = broadcast(added, shape, mask_memory);
    a.mask_query_stride = shape[2] == 1 ? 0 : length;
    int64_t head_stride = shape[2] * length;
    a.mask_batch_stride = shape[0] == 1 ? 0 : shape[1] * head_stride;
    if (shape[1] == 1) head_stride = 0;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(batch * a.heads), [&](size_t index) {
      int64_t head = (int64_t)index % a.heads;
      Attention own = a;
      own.mask = masks + head * head_stride;
      run.attention(own, (int64_t)index / a.heads, head, scratch(attention_scratch(own)));
    });
  }

 private:
  std::vector<int64_t> numbers(const void* api, const KernelContext* context, const Integers& integers) const {
    if (integers.is_constant) return integers.values;
    Tensor tensor = input(api, context, integers.input);
    check(tensor.type == kInt64, "a shape is not in int64");
    return tensor.values<int64_t>();
  }
};

struct Match {
  Path query, key, value, context;
  Quantization probability;
  float factor;  // of the scores
  int mask;
  std::set<int> nodes;
};

// From the Softmax to both sides.
std::optional<Match> match(const GraphView& graph, const std::map<int, const Layer*>& layers, int softmax) {
  int64_t axis = graph.integer(softmax, "axis", -1);
  if (axis != -1 && axis != 3) return {};
  int quantize = graph.only_consumer(graph.output(softmax), "QuantizeLinear");
  std::optional<Quantization> probability = unsigned_quantization(graph, quantize);
  if (!probability) return {};
  int dequantize = graph.only_consumer(graph.output(quantize), "DequantizeLinear");
  std::optional<Quantization> back = quantization(graph, dequantize);
  if (!back || !(*back == *probability)) return {};
  int product = graph.only_consumer(graph.output(dequantize), "MatMul");
  if (product == kNone || graph.input(product, 0) != graph.output(dequantize)) return {};
  int add = graph.producer(graph.input(softmax, 0), "Add");
  if (add == kNone) return {};
  for (int side = 0; side < 2; side++) {
    std::set<int> nodes{softmax, quantize, dequantize, product, add};
    int scores = graph.input(add, side);
    float factor = 1.0f;
    int scaling = graph.producer(scores);
    if (scaling == kNone) continue;
    const std::string& type = graph.node(scaling).type;
    if (type == "Mul" || type == "Div") {
      bool first = type == "Mul" && graph.number(graph.input(scaling, 0));
      std::optional<float> number = graph.number(graph.input(scaling, first ? 0 : 1));
      if (!number) continue;
      factor = type == "Mul" ? *number : 1.0f / *number;
      nodes.insert(scaling);
      scores = graph.input(scaling, first ? 1 : 0);
    }
    int multiply = graph.producer(scores, "MatMul");
    if (multiply == kNone) continue;
    nodes.insert(multiply);
    std::optional<Path> query = trace_back(graph, graph.input(multiply, 0), layers);
    std::optional<Path> key = trace_back(graph, graph.input(multiply, 1), layers);
    std::optional<Path> value = trace_back(graph, graph.input(product, 1), layers);
    std::optional<Path> context = trace_context(graph, graph.output(product));
    if (!query || !key || !value || !context) return {};
    if (query->order != Order{0, 2, 1, 3} || key->order != Order{0, 2, 3, 1} || value->order != query->order) return {};
    return Match{*query, *key, *value, *context, *probability, factor, graph.input(add, 1 - side), nodes};
  }
  return {};
}

}  // namespace

std::optional<AttentionMatch> attention_block(const GraphView& graph, const std::vector<Layer>& layers, int softmax) {
  std::map<int, const Layer*> by_output;
  for (const Layer& layer : layers)
    if (layer.can_be_taken()) by_output[layer.output] = &layer;
  std::optional<Match> found = match(graph, by_output, softmax);
  if (!found) return {};
  AttentionMatch result;
  auto plan = std::make_unique<AttentionPlan>();
  std::vector<int> inputs;
  std::vector<QuantParams> params;
  result.block.nodes = found->nodes;
  auto insert = [&](const std::set<int>& nodes) { result.block.nodes.insert(nodes.begin(), nodes.end()); };
  auto read = [&](int tensor) {
    inputs.push_back(tensor);
    return plan->read(graph.name(tensor));
  };
  auto integers = [&](int tensor) {
    const Tensor* constant = graph.constant(tensor);
    if (constant && constant->type == kInt64) return Integers{constant->values<int64_t>(), 0, true};
    return Integers{{}, read(tensor), false};
  };
  const Path* paths[] = {&found->query, &found->key, &found->value};
  read(by_output.at(paths[0]->tensor)->input);
  for (int i = 0; i < 3; i++) {
    const Layer* layer = by_output.at(paths[i]->tensor);
    result.layers.push_back(layer);
    insert(layer->nodes);
    insert(paths[i]->nodes);
    params.push_back(paths[i]->params->stored_params());
    plan->head_shapes[i] = integers(paths[i]->shape);
    const Layer& first = *result.layers[0];
    if (layer->input != first.input || !(layer->params == first.params) || layer->outputs != first.outputs) return {};
    if (layer->rows.starts.empty()) return {};  // too few zeros in any pattern: its weight has not been read
  }
  insert(found->context.nodes);
  plan->output_shape = integers(found->context.shape);
  plan->mask = read(found->mask);
  plan->write(graph.name(found->context.tensor));
  if (!graph.is_block(result.block.nodes, inputs, {found->context.tensor})) return {};

  plan->layer = pack(result.layers, params, false);
  Attention& a = plan->attention;
  a.query_zero = paths[0]->params->stored_zero();
  a.key_zero = paths[1]->params->stored_zero() - 128;
  a.value_zero = paths[2]->params->stored_zero() - 128;
  a.score_scale = *paths[0]->scale * *paths[1]->scale;
  if (found->factor != 1.0f) a.score_scale *= found->factor;
  a.context_scale = found->probability.scale * *paths[2]->scale;
  a.probability_params = found->probability.stored_params();
  a.output_params = found->context.params->stored_params();
  result.block.plan = std::move(plan);
  return result;
}
