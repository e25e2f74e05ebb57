#include "shape_values.h"

#include <algorithm>

using namespace ort;

namespace {

constexpr size_t kMostNodes = 64;  // bounds the recursion

// The part from `begin` to `end`; negative places are counted from the end.
Dimensions part(const Dimensions& all, int64_t begin, int64_t end) {
  int64_t size = (int64_t)all.size();
  auto place = [&](int64_t at) { return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size); };
  return Dimensions(all.begin() + place(begin), all.begin() + std::max(place(begin), place(end)));
}

}  // namespace

std::optional<Dimensions> shape_values(const GraphView& graph, int tensor, const std::map<int, Dimensions>& known,
                                       std::set<int>& nodes) {
  if (const Tensor* constant = graph.constant(tensor)) {
    if (constant->type != kInt64) return {};
    Dimensions values;
    for (int64_t value : constant->values<int64_t>()) values.push_back({value});
    return values;
  }
  int node = graph.producer(tensor);
  if (node == kNone || nodes.size() > kMostNodes) return {};
  nodes.insert(node);
  const std::string& type = graph.node(node).type;
  if (type == "Shape") {
    auto found = known.find(graph.input(node, 0));
    if (found == known.end()) return {};
    const Dimensions& all = found->second;
    return part(all, graph.integer(node, "start", 0), graph.integer(node, "end", (int64_t)all.size()));
  }
  if (type == "Concat") {
    Dimensions values;
    for (int input : graph.node(node).inputs) {
      std::optional<Dimensions> some = shape_values(graph, input, known, nodes);
      if (!some) return {};
      values.insert(values.end(), some->begin(), some->end());
    }
    return values;
  }
  bool slices = type == "Slice" && graph.node(node).inputs.size() == 3;
  if (!slices && type != "Gather") return {};
  std::optional<Dimensions> all = shape_values(graph, graph.input(node, 0), known, nodes);
  std::vector<int64_t> numbers;  // begin and end, or indices
  for (size_t i = 1; i < graph.node(node).inputs.size(); i++) {
    const Tensor* constant = graph.constant(graph.input(node, i));
    if (!constant || constant->type != kInt64 || constant->shape.size() != 1) return {};
    auto some = constant->values<int64_t>();
    numbers.insert(numbers.end(), some.begin(), some.end());
  }
  if (!all) return {};
  if (slices) return numbers.size() == 2 ? std::optional(part(*all, numbers[0], numbers[1])) : std::nullopt;
  Dimensions values;
  for (int64_t index : numbers) {
    if (index < 0 || index >= (int64_t)all->size()) return {};
    values.push_back((*all)[(size_t)index]);
  }
  return values;
}
