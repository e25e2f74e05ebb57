// Attention as a block, from the layers of query, key and value to the input of the next layer: its integers where it is
// quantized.
#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>

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
  float factor = 1.0f;                 // of fp32
};

// The constant factor of a Mul or Div, and its other input; none for any other node.
std::optional<std::pair<float, int>> constant_factor(const GraphView& graph, int node) {
  const std::string& type = graph.node(node).type;
  if (type != "Mul" && type != "Div") return {};
  bool is_first = type == "Mul" && graph.number(graph.input(node, 0));
  std::optional<float> number = graph.number(graph.input(node, is_first ? 0 : 1));
  if (!number || *number == 0) return {};
  return std::pair(type == "Mul" ? *number : 1.0f / *number, graph.input(node, is_first ? 1 : 0));
}

// Adds a QuantizeLinear or DequantizeLinear; false if its parameters are others.
bool add_quantization(const GraphView& graph, int node, Path& path) {
  std::optional<Quantization> params = quantization(graph, node);
  if (!params || (path.params && !(*path.params == *params))) return false;
  path.params = params;
  return true;
}

// Whether a shape is constant and does not refer to the shape of what is reshaped.
bool is_complete(const GraphView& graph, int shape) {
  const Tensor* value = graph.constant(shape);
  if (!value || value->type != kInt64) return false;
  auto numbers = value->values<int64_t>();
  return std::find(numbers.begin(), numbers.end(), 0) == numbers.end();
}

// From a factor of a product back to a Linear layer.
std::optional<Path> trace_back(const GraphView& graph, int tensor, const std::map<int, const Layer*>& layers,
                               bool quantized) {
  Path path{{}, tensor};
  std::optional<Quantization> last;
  while (!layers.count(path.tensor)) {
    int node = graph.producer(path.tensor);
    if (node == kNone) return {};
    const std::string& type = graph.node(node).type;
    path.nodes.insert(node);
    if (!quantized)
      if (auto scaling = constant_factor(graph, node)) {
        path.factor *= scaling->first;
        path.tensor = scaling->second;
        continue;
      }
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
    } else if (type == "Reshape" && is_complete(graph, path.shape) && graph.constant(graph.input(node, 1))) {
      // What the last one results in does not depend on it.
    } else {
      return {};
    }
    path.tensor = graph.input(node, 0);
  }
  if (path.shape == kNone || layers.at(path.tensor)->is_float() == quantized) return {};
  if (!quantized) return path.params || last ? std::nullopt : std::optional(path);
  return path.params && last && path.params->same_integers(*last) ? std::optional(path) : std::nullopt;
}

// From the context of all heads to the tensor that the next layer reads.
std::optional<Path> trace_context(const GraphView& graph, int tensor, bool quantized) {
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
    if (path.shape != kNone && (!quantized || type == "QuantizeLinear")) break;
  }
  bool fits = quantized ? path.params && !path.params->is_signed : !path.params;
  return fits && path.order == Order{0, 2, 1, 3} ? std::optional(path) : std::nullopt;
}

struct Heads {
  int64_t batch, length, count, size;
};

// Added to the scores: [1 or batch, 1 or heads, 1 or length, length].
struct Mask {
  const float* data;
  int64_t batch_stride, head_stride, query_stride;
};

class AttentionPlan : public Plan {
 public:
  Integers head_shapes[3], output_shape;
  size_t mask;

  size_t read(const std::string& name) { return add_input(name); }
  void write(const std::string& name) { add_output(name); }

  void compute(const void* api, KernelContext* context) const override {
    Tensor x = input(api, context, 0);
    check_shape(x);
    check(!x.shape.empty() && x.shape.back() == inputs(), "the input is not as wide as the weight");
    std::vector<int64_t> flat = x.shape;
    flat.back() = outputs() / 3;
    std::vector<int64_t> shape = reshaped(flat, numbers(api, context, head_shapes[0]));
    check(shape.size() == 4 && shape[2] * shape[3] == flat.back(), "query is not [batch, length, heads, size]");
    for (const Integers& other : head_shapes)
      check(reshaped(flat, numbers(api, context, other)) == shape, "query, key and value have different shapes");
    check(shape[1] <= kMaxKeys, "the sequence is longer than 32768");
    void* y = output(api, context, 0, reshaped(shape, numbers(api, context, output_shape)));
    if (!y || x.count() == 0) return;
    Heads heads{shape[0], shape[1], shape[2], shape[3]};
    thread_local std::vector<float> memory;
    run(api, context, x, heads, read_mask(input(api, context, mask), heads, memory), y);
  }

 protected:
  virtual int64_t inputs() const = 0;
  virtual int64_t outputs() const = 0;  // of query, key and value side by side
  virtual void run(const void* api, const KernelContext* context, const Tensor& x, const Heads& heads, const Mask& mask,
                   void* y) const = 0;

  // Fills in what the kernels for int8 and fp32 have alike; query, key and value side by side.
  template <typename Kind, typename T>
  static Kind filled(Kind a, const Heads& heads, const Mask& mask, const T* tensors, T* y) {
    int64_t width = heads.count * heads.size;
    a.query = tensors;
    a.key = tensors + width;
    a.value = tensors + 2 * width;
    a.query_stride = a.key_stride = a.value_stride = 3 * width;
    a.mask_batch_stride = mask.batch_stride;
    a.mask_query_stride = mask.query_stride;
    a.length = heads.length;
    a.heads = heads.count;
    a.head_size = heads.size;
    a.output = y;
    return a;
  }
  // Runs a kernel for each head, which may have a mask of its own.
  template <typename Kind, typename Kernel>
  static void each_head(const void* api, const KernelContext* context, const Kind& all, const Heads& heads,
                        const Mask& mask, const Kernel& kernel) {
    parallel(api, context, (size_t)(heads.batch * heads.count), [&](size_t index) {
      int64_t head = (int64_t)index % heads.count;
      Kind a = all;
      a.mask = mask.data + head * mask.head_stride;
      kernel(a, (int64_t)index / heads.count, head);
    });
  }

 private:
  static Mask read_mask(const Tensor& added, const Heads& heads, std::vector<float>& memory) {
    check(added.shape.size() <= 4, "the mask has more than four dimensions");
    std::vector<int64_t> shape(4 - added.shape.size(), 1);
    shape.insert(shape.end(), added.shape.begin(), added.shape.end());
    check((shape[0] == 1 || shape[0] == heads.batch) && (shape[1] == 1 || shape[1] == heads.count) &&
              (shape[2] == 1 || shape[2] == heads.length),
          "the mask does not fit the scores");
    shape[3] = heads.length;
    const float* data = broadcast(added, shape, memory);
    int64_t length = shape[3], head = shape[2] * length;
    // Transformers computes a row for each query, although most masks only hide padding: one row for all is faster.
    bool is_same = true;
    for (const float* row = data; is_same && row < data + shape[0] * shape[1] * head; row += length)
      is_same = (row - data) % head == 0 || !std::memcmp(row, row - length, sizeof(float) * length);
    return {data, shape[0] == 1 ? 0 : shape[1] * head, shape[1] == 1 ? 0 : head, is_same ? 0 : length};
  }
  std::vector<int64_t> numbers(const void* api, const KernelContext* context, const Integers& integers) const {
    if (integers.is_constant) return integers.values;
    Tensor tensor = input(api, context, integers.input);
    check(tensor.type == kInt64, "a shape is not in int64");
    return tensor.values<int64_t>();
  }
};

struct Int8AttentionPlan : AttentionPlan {
  std::unique_ptr<Int8Linear> layer;
  Attention attention{};

  int64_t inputs() const override { return layer->inputs(); }
  int64_t outputs() const override { return layer->outputs(); }
  void run(const void* api, const KernelContext* context, const Tensor& x, const Heads& heads, const Mask& mask,
           void* y) const override {
    thread_local std::vector<uint8_t> integers;
    integers.resize((size_t)(heads.batch * heads.length * outputs()));
    layer->run(api, context, x.as<uint8_t>(), heads.batch * heads.length, integers.data());
    Attention all = filled(attention, heads, mask, (const uint8_t*)integers.data(), (uint8_t*)y);
    all.key_flip = all.value_flip = 0x80;
    const Kernels& run = kernels();
    each_head(api, context, all, heads, mask, [&](const Attention& a, int64_t batch, int64_t head) {
      run.attention(a, batch, head, scratch(attention_scratch(a)));
    });
  }
};

struct FloatAttentionPlan : AttentionPlan {
  FloatLayers layer{false};
  FloatAttention attention{};

  int64_t inputs() const override { return layer.inputs(); }
  int64_t outputs() const override { return layer.outputs(); }
  void run(const void* api, const KernelContext* context, const Tensor& x, const Heads& heads, const Mask& mask,
           void* y) const override {
    thread_local std::vector<float> tensors;
    tensors.resize((size_t)(heads.batch * heads.length * outputs()));
    layer.run(api, context, x.as<float>(), heads.batch * heads.length, tensors.data());
    FloatAttention all = filled(attention, heads, mask, (const float*)tensors.data(), (float*)y);
    const Kernels& run = kernels();
    each_head(api, context, all, heads, mask, [&](const FloatAttention& a, int64_t batch, int64_t head) {
      run.float_attention(a, batch, head, scratch(float_attention_scratch(a)));
    });
  }
};

struct Match {
  Path query, key, value, context;
  std::optional<Quantization> probability;  // none: it is in fp32
  float factor;                             // of the scores
  int mask;
  std::set<int> nodes;
};

// From the Softmax to both sides.
std::optional<Match> match(const GraphView& graph, const std::map<int, const Layer*>& layers, int softmax) {
  int64_t axis = graph.integer(softmax, "axis", -1);
  if (axis != -1 && axis != 3) return {};
  std::set<int> nodes{softmax};
  int probabilities = graph.output(softmax), quantize = graph.only_consumer(probabilities, "QuantizeLinear");
  std::optional<Quantization> probability;
  if (quantize != kNone) {
    probability = unsigned_quantization(graph, quantize);
    int dequantize = graph.only_consumer(graph.output(quantize), "DequantizeLinear");
    std::optional<Quantization> back = quantization(graph, dequantize);
    if (!probability || !back || !(*back == *probability)) return {};
    nodes.insert({quantize, dequantize});
    probabilities = graph.output(dequantize);
  }
  int product = graph.only_consumer(probabilities, "MatMul"), add = graph.producer(graph.input(softmax, 0), "Add");
  if (product == kNone || graph.input(product, 0) != probabilities || add == kNone) return {};
  nodes.insert({product, add});
  for (int side = 0; side < 2; side++) {
    int scores = graph.input(add, side), scaling = graph.producer(scores);
    if (scaling == kNone) continue;
    float factor = 1.0f;
    if (auto found = constant_factor(graph, scaling)) {
      std::tie(factor, scores) = *found;
    } else {
      scaling = kNone;
    }
    int multiply = graph.producer(scores, "MatMul");
    if (multiply == kNone) continue;
    nodes.insert(multiply);
    if (scaling != kNone) nodes.insert(scaling);
    bool quantized = probability.has_value();
    std::optional<Path> query = trace_back(graph, graph.input(multiply, 0), layers, quantized);
    std::optional<Path> key = trace_back(graph, graph.input(multiply, 1), layers, quantized);
    std::optional<Path> value = trace_back(graph, graph.input(product, 1), layers, quantized);
    std::optional<Path> context = trace_context(graph, graph.output(product), quantized);
    if (!query || !key || !value || !context || value->factor != 1.0f) return {};
    if (query->order != Order{0, 2, 1, 3} || key->order != Order{0, 2, 3, 1} || value->order != query->order) return {};
    factor *= query->factor * key->factor;
    return Match{*query, *key, *value, *context, probability, factor, graph.input(add, 1 - side), nodes};
  }
  return {};
}

std::unique_ptr<AttentionPlan> make_plan(const Match& found, const std::vector<const Layer*>& layers) {
  if (!found.probability) {
    auto plan = std::make_unique<FloatAttentionPlan>();
    pack(layers, plan->layer);
    plan->attention.score_scale = found.factor;
    return plan;
  }
  auto plan = std::make_unique<Int8AttentionPlan>();
  const Path *query = &found.query, *key = &found.key, *value = &found.value;
  std::vector<QuantParams> params;
  for (const Path* path : {query, key, value}) params.push_back(path->params->stored_params());
  plan->layer = pack(layers, params, false);
  Attention& a = plan->attention;
  a.query_zero = query->params->stored_zero();
  a.key_zero = key->params->stored_zero() - 128;
  a.value_zero = value->params->stored_zero() - 128;
  a.score_scale = *query->scale * *key->scale;
  if (found.factor != 1.0f) a.score_scale *= found.factor;
  a.context_scale = found.probability->scale * *value->scale;
  a.probability_params = found.probability->stored_params();
  a.output_params = found.context.params->stored_params();
  return plan;
}

}  // namespace

std::optional<AttentionMatch> attention_block(const GraphView& graph, const std::vector<Layer>& layers, int softmax) {
  std::map<int, const Layer*> by_output;
  for (const Layer& layer : layers)
    if (layer.can_be_taken()) by_output[layer.output] = &layer;
  std::optional<Match> found = match(graph, by_output, softmax);
  if (!found) return {};
  AttentionMatch result;
  result.block.nodes = found->nodes;
  const Path* paths[] = {&found->query, &found->key, &found->value};
  auto insert = [&](const std::set<int>& nodes) { result.block.nodes.insert(nodes.begin(), nodes.end()); };
  for (const Path* path : paths) {
    const Layer* layer = by_output.at(path->tensor);
    result.layers.push_back(layer);
    insert(layer->nodes);
    insert(path->nodes);
    const Layer& first = *result.layers[0];
    if (layer->input != first.input || !(layer->params == first.params) || layer->outputs != first.outputs) return {};
    if (!layer->is_read()) return {};
  }
  insert(found->context.nodes);

  std::unique_ptr<AttentionPlan> plan = make_plan(*found, result.layers);
  std::vector<int> inputs;
  auto read = [&](int tensor) {
    inputs.push_back(tensor);
    return plan->read(graph.name(tensor));
  };
  auto integers = [&](int tensor) {
    const Tensor* constant = graph.constant(tensor);
    if (constant && constant->type == kInt64) return Integers{constant->values<int64_t>(), 0, true};
    return Integers{{}, read(tensor), false};
  };
  read(result.layers[0]->input);
  for (int i = 0; i < 3; i++) plan->head_shapes[i] = integers(paths[i]->shape);
  plan->output_shape = integers(found->context.shape);
  plan->mask = read(found->mask);
  plan->write(graph.name(found->context.tensor));
  if (graph.constant(found->mask) || !graph.is_block(result.block.nodes, inputs, {found->context.tensor})) return {};
  result.block.plan = std::move(plan);
  return result;
}
