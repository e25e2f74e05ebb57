#include "graph.h"

#include <algorithm>
#include <cstring>

using namespace ort;

namespace {

// The members of a node or graph, which ONNX Runtime counts and lists.
template <typename Count, typename List, typename Member, typename Owner>
std::vector<Member> members(const void* api, Owner owner) {
  size_t count;
  call<Count>(api, owner, &count);
  std::vector<Member> all(count);
  if (count > 0) call<List>(api, owner, all.data(), count);
  return all;
}

}  // namespace

GraphView::GraphView(const void* api, const Graph* graph) : api_(api) {
  for (const GraphNode* handle : members<NumNodes, GetNodes, const GraphNode*>(api, graph)) {
    const char *type, *domain;
    call<NodeOperatorType>(api, handle, &type);
    call<NodeDomain>(api, handle, &domain);
    bool standard = !*domain || !std::strcmp(domain, "ai.onnx");
    NodeView node{handle, standard || !std::strcmp(domain, "com.microsoft") ? type : "", {}, {}};
    int index = (int)nodes_.size();
    for (const ValueInfo* value : members<NumInputs, GetInputs, const ValueInfo*>(api, handle)) {
      int tensor = value ? find(value) : kNone;
      node.inputs.push_back(tensor);
      if (tensor != kNone) tensors_[tensor].consumers.push_back(index);
    }
    for (const ValueInfo* value : members<NumOutputs, GetOutputs, const ValueInfo*>(api, handle)) {
      int tensor = value ? find(value) : kNone;
      node.outputs.push_back(tensor);
      if (tensor != kNone) tensors_[tensor].producer = index;
    }
    for (const ValueInfo* value : members<NumImplicitInputs, GetImplicitInputs, const ValueInfo*>(api, handle))
      if (value) tensors_[find(value)].used_elsewhere = true;
    nodes_.push_back(std::move(node));
  }
}

int GraphView::find(const ValueInfo* value) {
  const char* name;
  call<ValueName>(api_, value, &name);
  if (!*name) return kNone;  // an optional input or output that is absent
  auto [place, is_new] = numbers_.emplace(name, (int)tensors_.size());
  if (is_new) {
    TensorView tensor{value, name};
    call<IsGraphOutput>(api_, value, &tensor.used_elsewhere);
    tensors_.push_back(std::move(tensor));
  }
  return place->second;
}

int GraphView::producer(int tensor, const char* type) const {
  int node = producer(tensor);
  return node != kNone && nodes_[node].type == type ? node : kNone;
}

int GraphView::only_consumer(int tensor, const char* type) const {
  const TensorView& view = tensors_[tensor];
  if (view.used_elsewhere || view.consumers.size() != 1 || nodes_[view.consumers[0]].type != type) return kNone;
  return view.consumers[0];
}

const Tensor* GraphView::constant(int tensor) const {
  if (tensor == kNone) return nullptr;
  TensorView& view = tensors_[tensor];
  if (!view.is_read) {
    view.is_read = true;
    bool is_constant = false;
    const Value* value = nullptr;
    call<IsConstantInitializer>(api_, view.handle, &is_constant);
    if (is_constant) call<InitializerValue>(api_, view.handle, &value);
    if (value) view.value = std::make_unique<Tensor>(api_, value);
  }
  return view.value.get();
}

std::optional<float> GraphView::number(int tensor) const {
  const Tensor* value = constant(tensor);
  if (!value || value->type != kFloat || value->count() != 1) return {};
  return value->as<float>()[0];
}

int GraphView::input(int node, size_t index) const {
  return index < nodes_[node].inputs.size() ? nodes_[node].inputs[index] : kNone;
}

int GraphView::other_input(int node, int tensor) const {
  return input(node, 0) == tensor ? input(node, 1) : input(node, 0);
}

size_t GraphView::read(int node, const char* name, int kind, void* to, size_t room) const {
  const Attribute* found = nullptr;
  size_t size = 0;
  // Newer runtimes return an error where there is no such attribute, older ones a null pointer.
  if (Status* status = AttributeByName::call(api_, nodes_[node].handle, name, &found)) {
    ReleaseStatus::call(api_, status);
  } else if (found) {
    call<ReadAttribute>(api_, found, kind, to, room, &size);
  }
  return size;
}

int64_t GraphView::integer(int node, const char* name, int64_t otherwise) const {
  read(node, name, kInt, &otherwise, sizeof otherwise);
  return otherwise;
}

float GraphView::number(int node, const char* name, float otherwise) const {
  read(node, name, kNumber, &otherwise, sizeof otherwise);
  return otherwise;
}

std::string GraphView::text(int node, const char* name) const {
  char value[64] = {};
  size_t size = read(node, name, kText, value, sizeof value - 1);
  return {value, value + std::min(size, std::strlen(value))};
}

std::vector<int64_t> GraphView::integers(int node, const char* name) const {
  int64_t values[16];
  size_t size = read(node, name, kInts, values, sizeof values);
  return {values, values + size / sizeof(int64_t)};
}

bool GraphView::is_block(const std::set<int>& nodes, const std::vector<int>& inputs,
                         const std::vector<int>& outputs) const {
  auto has = [](const std::vector<int>& list, int tensor) {
    return std::find(list.begin(), list.end(), tensor) != list.end();
  };
  for (int node : nodes) {
    for (int tensor : nodes_[node].inputs)
      if (tensor != kNone && !nodes.count(producer(tensor)) && !has(inputs, tensor) && !constant(tensor)) return false;
    for (int tensor : nodes_[node].outputs) {
      if (tensor == kNone || has(outputs, tensor)) continue;
      if (is_used_elsewhere(tensor)) return false;
      for (int consumer : consumers(tensor))
        if (!nodes.count(consumer)) return false;
    }
  }
  return true;
}
