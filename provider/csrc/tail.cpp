// What follows a Linear layer: GELU and quantization.
#include <algorithm>
#include <cmath>

#include "layer.h"

namespace {

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

Tail no_tail(const Layer& layer) { return {{}, layer.output, false, layer.output_params}; }

Tail find_tail(const GraphView& graph, const Layer& layer) {
  if (layer.output_params) return no_tail(layer);
  Tail tail = find_gelu(graph, layer.output).value_or(no_tail(layer));
  if (layer.is_float()) return tail;
  int quantize = graph.only_consumer(tail.output, "QuantizeLinear");
  tail.quantization = quantization(graph, quantize);
  if (tail.quantization) {
    tail.nodes.insert(quantize);
    tail.output = graph.output(quantize);
  }
  return tail;
}
