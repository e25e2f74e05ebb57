// A residual sum and LayerNormalization over the last dimension as a block, with quantization where it follows.
#include <algorithm>

#include "blocks.h"
#include "cpu.h"

using namespace ort;

namespace {

constexpr int64_t kRows = 16;  // that one thread takes at once

class NormPlan : public Plan {
 public:
  NormPlan(std::vector<std::string> inputs, std::vector<std::string> outputs, std::vector<float> gamma,
           std::vector<float> beta, float epsilon, const std::optional<Quantization>& params)
      : quantizes_(params.has_value()),
        is_signed_(params && params->is_signed),
        gamma_(std::move(gamma)),
        beta_(std::move(beta)) {
    for (const std::string& name : inputs) terms_.push_back(add_input(name));
    for (const std::string& name : outputs) add_output(name);
    norm_.gamma = gamma_.data();
    norm_.beta = beta_.data();
    norm_.size = (int64_t)gamma_.size();
    norm_.epsilon = epsilon;
    if (params) norm_.output_params = params->stored_params();
  }

  void compute(const void* api, KernelContext* context) const override {
    Tensor a = input(api, context, terms_[0]), b = input(api, context, terms_[1]);
    if (a.count() < b.count()) std::swap(a, b);
    check_shape(a);
    std::vector<int64_t> shape = sum_shape(a.shape, b.shape);
    check(!shape.empty() && shape.back() == norm_.size, "the terms are not as wide as gamma");
    AddNorm now = norm_;
    thread_local std::vector<float> memory[2];
    now.a = broadcast(a, shape, memory[0]);
    now.b_rows = b.count() / norm_.size;
    now.b = is_end_of(b.shape, shape) ? b.as<float>() : nullptr;
    int64_t rows = 1;
    for (int64_t dimension : shape) rows *= dimension;
    rows /= norm_.size;
    if (!now.b) {
      now.b = broadcast(b, shape, memory[1]);
      now.b_rows = rows;
    }
    now.integers = quantizes_ ? (uint8_t*)output(api, context, 1, shape) : nullptr;
    now.output = (float*)output(api, context, 0, shape);
    thread_local std::vector<float> unread;  // the kernel needs room for it
    if (!now.output) {
      unread.resize((size_t)(rows * norm_.size));
      now.output = unread.data();
    }
    const Kernels& run = kernels();
    parallel(api, context, (size_t)((rows + kRows - 1) / kRows), [&](size_t index) {
      int64_t first = (int64_t)index * kRows;
      run.add_norm(now, first, std::min(first + kRows, rows));
    });
    if (now.integers && is_signed_) flip(now.integers, now.integers, rows * norm_.size);
  }

 private:
  static std::vector<int64_t> sum_shape(std::vector<int64_t> a, std::vector<int64_t> b) {
    if (a.size() < b.size()) std::swap(a, b);
    for (size_t i = 0; i < b.size(); i++) {
      int64_t& own = a[a.size() - b.size() + i];
      if (own == 1) own = b[i];
    }
    return a;
  }
  // Whether a tensor of that shape repeats itself in one of the larger shape: [1, length, size] in a batch.
  static bool is_end_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& larger) {
    auto own = std::find_if(shape.begin(), shape.end(), [](int64_t dimension) { return dimension != 1; });
    size_t rank = (size_t)(shape.end() - own);
    return rank > 0 && rank <= larger.size() && std::equal(own, shape.end(), larger.end() - rank);
  }

  std::vector<size_t> terms_;  // a number twice if a tensor is added to itself
  bool quantizes_, is_signed_;
  AddNorm norm_{};
  std::vector<float> gamma_, beta_;
};

struct Normalization {
  std::set<int> nodes;
  int sum, gamma, beta;
  float epsilon;
};

// Whether a ReduceMean is over the last dimension and keeps it; the axes are an input from opset 18 on.
bool is_over_last(const GraphView& graph, int reduce) {
  if (graph.integer(reduce, "keepdims", 1) != 1) return false;
  int axes = graph.input(reduce, 1);
  if (axes == kNone) return graph.integers(reduce, "axes") == std::vector<int64_t>{-1};
  const Tensor* value = graph.constant(axes);
  return value && value->type == kInt64 && value->values<int64_t>() == std::vector<int64_t>{-1};
}

// (x - mean) / sqrt(mean((x - mean) ** 2) + epsilon) * gamma + beta, ended by the Add of beta: PyTorch's
// LayerNormalization below opset 17.
std::optional<Normalization> decomposed(const GraphView& graph, int end) {
  for (int turn = 0; turn < 2; turn++) {
    int scaled = graph.producer(graph.input(end, turn), "Mul"), beta = graph.input(end, 1 - turn);
    if (scaled == kNone || !graph.constant(beta)) continue;
    for (int side = 0; side < 2; side++) {
      int quotient = graph.producer(graph.input(scaled, side), "Div"), gamma = graph.input(scaled, 1 - side);
      if (quotient == kNone || !graph.constant(gamma)) continue;
      int centered = graph.producer(graph.input(quotient, 0), "Sub");
      int root = graph.producer(graph.input(quotient, 1), "Sqrt");
      int stabilized = root == kNone ? kNone : graph.producer(graph.input(root, 0), "Add");
      if (centered == kNone || stabilized == kNone) continue;
      int mean = graph.producer(graph.input(centered, 1), "ReduceMean"), x = graph.input(centered, 0);
      std::optional<float> epsilon = graph.number(graph.input(stabilized, 1));
      int variance = graph.producer(graph.input(stabilized, 0), "ReduceMean");
      if (!epsilon) {
        epsilon = graph.number(graph.input(stabilized, 0));
        variance = graph.producer(graph.input(stabilized, 1), "ReduceMean");
      }
      if (!epsilon || mean == kNone || variance == kNone || graph.input(mean, 0) != x) continue;
      int power = graph.producer(graph.input(variance, 0));
      if (power == kNone || graph.input(power, 0) != graph.output(centered)) continue;
      bool is_square = graph.node(power).type == "Pow" && graph.number(graph.input(power, 1)) == 2.0f;
      is_square |= graph.node(power).type == "Mul" && graph.input(power, 1) == graph.output(centered);
      if (!is_square || !is_over_last(graph, mean) || !is_over_last(graph, variance)) continue;
      return Normalization{{end, scaled, quotient, centered, root, stabilized, mean, variance, power},
                           x, gamma, beta, *epsilon};
    }
  }
  return {};
}

std::optional<Normalization> find_normalization(const GraphView& graph, int end) {
  if (graph.node(end).type == "Add") return decomposed(graph, end);
  if (graph.node(end).type != "LayerNormalization" || graph.integer(end, "axis", -1) != -1) return {};
  if (graph.integer(end, "stash_type", 1) != 1 || graph.input(end, 2) == kNone) return {};
  for (size_t i = 1; i < graph.node(end).outputs.size(); i++)
    if (graph.node(end).outputs[i] != kNone) return {};
  return Normalization{{end}, graph.input(end, 0), graph.input(end, 1), graph.input(end, 2),
                       graph.number(end, "epsilon", 1e-5f)};
}

}  // namespace

std::optional<Block> norm_block(const GraphView& graph, int end) {
  std::optional<Normalization> norm = find_normalization(graph, end);
  if (!norm) return {};
  const Tensor *gamma = graph.constant(norm->gamma), *beta = graph.constant(norm->beta);
  int add = graph.producer(norm->sum, "Add");
  if (add == kNone || !gamma || !beta || gamma->type != kFloat || beta->type != kFloat) return {};
  if (gamma->shape.size() != 1 || gamma->shape != beta->shape || gamma->count() == 0) return {};
  int a = graph.input(add, 0), b = graph.input(add, 1);
  if (graph.constant(a) || graph.constant(b)) return {};
  int output = graph.output(end);
  Block block;
  block.nodes = norm->nodes;
  block.nodes.insert(add);
  std::vector<int> outputs{output};
  std::optional<Quantization> params;
  for (int quantize : graph.consumers(output)) {
    if (params || graph.node(quantize).type != "QuantizeLinear" || graph.input(quantize, 0) != output) continue;
    params = quantization(graph, quantize);
    if (!params) continue;
    block.nodes.insert(quantize);
    outputs.push_back(graph.output(quantize));
  }
  if (!graph.is_block(block.nodes, {a, b}, outputs)) return {};
  std::vector<std::string> names;
  for (int tensor : outputs) names.push_back(graph.name(tensor));
  block.plan = std::make_unique<NormPlan>(std::vector<std::string>{graph.name(a), graph.name(b)}, names,
                                          gamma->values<float>(), beta->values<float>(), norm->epsilon, params);
  return block;
}
