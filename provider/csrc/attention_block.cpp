// Attention as a block, from the layers of query, key and value to the input of the next layer, which is quantized in
// int8 models.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "attention_plan.h"
#include "blocks.h"
#include "shape_values.h"

using namespace ort;

namespace {

using Order = std::vector<int64_t>;

// Reshapes between Transposes that keep four dimensions: one that changes nothing, or the last two exchanged by way of
// three dimensions, as PyTorch writes it: the first two merged, a Transpose, and the first two split again.
struct Regrouping {
  int source;                 // what is reshaped
  int split, merged = kNone;  // shapes
  Order order{0, 1, 2, 3};    // of the Transposes before it
};

// How a tensor of one layout becomes another one, by nodes that move data, quantize or dequantize with one set of
// parameters. ONNX Runtime adds QuantizeLinear and DequantizeLinear around each node that moves data.
struct Path {
  std::set<int> nodes;
  int tensor;                          // where it ends
  int shape = kNone;                   // of its Reshape
  Order order{0, 1, 2, 3};             // of the Transposes together
  bool transposes = false;
  std::optional<Quantization> params;  // of its QuantizeLinear nodes
  int view = kNone;                    // what its Reshape results in
  std::optional<Regrouping> regrouping;
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

// The regrouping that ends with a Reshape; adds its nodes.
std::optional<Regrouping> find_regrouping(const GraphView& graph, int reshape, std::set<int>& nodes) {
  int turn = graph.producer(graph.input(reshape, 0), "Transpose");
  if (turn == kNone) return {};
  Regrouping found{graph.input(reshape, 0), graph.input(reshape, 1)};
  Order permutation = graph.integers(turn, "perm");
  if (permutation.size() == 4) return found;
  int merge = graph.producer(graph.input(turn, 0), "Reshape");
  if (permutation != Order{0, 2, 1} || merge == kNone) return {};
  nodes.insert({turn, merge});
  found.source = graph.input(merge, 0);
  found.merged = graph.input(merge, 1);
  return found;
}

// Whether the Reshapes of a path's regrouping have the right shapes; adds the nodes that compute them.
bool is_valid(const GraphView& graph, Path& path, int64_t width) {
  std::vector<int64_t> sizes(4, 0);  // [batch, length, heads, size]; 0 or -1 where only a run knows them
  const Tensor* heads = graph.constant(path.shape);
  if (heads && heads->type == kInt64 && heads->count() == 4) sizes = heads->values<int64_t>();
  for (int i : {2, 3})
    if (sizes[i] == -1 && sizes[5 - i] > 0) sizes[i] = width / sizes[5 - i];
  Dimensions view, d;
  for (int axis = 0; axis < 4; axis++) view.push_back(sizes[axis] > 0 ? Dimension{sizes[axis]} : Dimension{0, axis});
  const Regrouping& found = *path.regrouping;
  for (int64_t axis : found.order) d.push_back(view[axis]);
  std::map<int, Dimensions> known{{path.view, view}, {found.source, d}};
  auto split = shape_values(graph, found.split, known, path.nodes);
  if (found.merged == kNone) return split == d;
  auto merged = shape_values(graph, found.merged, known, path.nodes);
  return merged == Dimensions{{-1}, d[2], d[3]} && split == Dimensions{d[0], d[1], d[3], d[2]};
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
      if (path.regrouping)
        for (int64_t& axis : path.regrouping->order) axis = permutation[axis];
      path.transposes = true;
    } else if (std::optional<Regrouping> found =
                   type == "Reshape" && path.shape == kNone && !path.regrouping
                       ? find_regrouping(graph, node, path.nodes)
                       : std::nullopt) {
      if (found->merged != kNone)
        for (int64_t& axis : path.order) axis = Order{0, 1, 3, 2}[axis];
      path.regrouping = found;
      path.tensor = found->source;
      continue;
    } else if (type == "Reshape" && path.shape == kNone) {
      path.shape = graph.input(node, 1);
      path.view = graph.output(node);
    } else if (type == "Reshape" && is_complete(graph, path.shape) && graph.constant(graph.input(node, 1))) {
      // What the last one results in does not depend on it.
    } else {
      return {};
    }
    path.tensor = graph.input(node, 0);
  }
  if (path.shape == kNone || layers.at(path.tensor)->is_float() == quantized) return {};
  if (path.regrouping && !is_valid(graph, path, layers.at(path.tensor)->outputs)) return {};
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
  bool fits = quantized == path.params.has_value();
  return fits && path.order == Order{0, 2, 1, 3} ? std::optional(path) : std::nullopt;
}

struct Match {
  Path query, key, value, context;
  std::optional<Quantization> probability;  // none: it is in fp32
  float factor;                             // of the scores
  int mask;
  std::set<int> nodes;
};

// PyTorch replaces the probabilities of a query that sees no key, which are NaN, by 0. They are not NaN if the mask is
// finite, which `match` requires then. The tensor after that, and its nodes; what is given if nothing is replaced.
int without_nans(const GraphView& graph, int probabilities, std::set<int>& nodes) {
  const std::vector<int>& readers = graph.consumers(probabilities);
  if (graph.is_used_elsewhere(probabilities) || readers.size() != 2) return probabilities;
  for (int turn = 0; turn < 2; turn++) {
    int test = readers[turn], select = readers[1 - turn];
    if (graph.node(test).type != "IsNaN" || graph.node(select).type != "Where") continue;
    if (graph.input(select, 0) != graph.output(test) || graph.input(select, 2) != probabilities) continue;
    if (graph.number(graph.input(select, 1)) != 0.0f) continue;
    nodes.insert({test, select});
    return graph.output(select);
  }
  return probabilities;
}

// Whether a tensor is one of two finite numbers everywhere.
bool is_finite(const GraphView& graph, int tensor) {
  int select = graph.producer(tensor, "Where");
  if (select == kNone) return false;
  for (size_t side : {1, 2}) {
    std::optional<float> number = graph.number(graph.input(select, side));
    if (!number || !std::isfinite(*number)) return false;
  }
  return true;
}

// From the Softmax to both sides.
std::optional<Match> match(const GraphView& graph, const std::map<int, const Layer*>& layers, int softmax) {
  int64_t axis = graph.integer(softmax, "axis", -1);
  if (axis != -1 && axis != 3) return {};
  std::set<int> nodes{softmax};
  int probabilities = without_nans(graph, graph.output(softmax), nodes);
  bool replaces_nans = probabilities != graph.output(softmax);
  int quantize = graph.only_consumer(probabilities, "QuantizeLinear");
  std::optional<Quantization> probability;
  if (quantize != kNone) {
    probability = quantization(graph, quantize);
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
    int mask = graph.input(add, 1 - side);
    if (replaces_nans && !is_finite(graph, mask)) return {};
    if (query->order != Order{0, 2, 1, 3} || key->order != Order{0, 2, 3, 1} || value->order != query->order) return {};
    factor *= query->factor * key->factor;
    return Match{*query, *key, *value, *context, probability, factor, mask, nodes};
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
  plan->is_signed = found.context.params->is_signed;
  return plan;
}

}  // namespace

std::optional<AttentionMatch> attention_block(const GraphView& graph, const std::vector<Layer>& layers, int softmax) {
  std::map<int, const Layer*> by_output;
  for (const Layer& layer : layers)
    if (layer.can_be_taken() && !layer.is_dynamic() && !layer.output_params) by_output[layer.output] = &layer;
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
