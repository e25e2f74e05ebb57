// A copied view of a graph of ONNX Runtime: nodes and tensors by number, with who computes and who reads a tensor.
//
// The handles of ONNX Runtime are valid only during the call that passes the graph, and so is the view.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ort_ep_api.h"
#include "ort_helpers.h"

constexpr int kNone = -1;  // no node, or an optional input that is absent

struct NodeView {
  const ort::GraphNode* handle;
  std::string type;                  // "" unless it is an operator of ONNX or ONNX Runtime
  std::vector<int> inputs, outputs;  // tensors
};

class GraphView {
 public:
  GraphView(const void* api, const ort::Graph* graph);

  const std::vector<NodeView>& nodes() const { return nodes_; }
  const NodeView& node(int index) const { return nodes_[index]; }
  const std::string& name(int tensor) const { return tensors_[tensor].name; }
  // The node that computes a tensor, if it is of that type; else kNone.
  int producer(int tensor, const char* type) const;
  int producer(int tensor) const { return tensor == kNone ? kNone : tensors_[tensor].producer; }
  // The nodes that read a tensor, each as often as it does.
  const std::vector<int>& consumers(int tensor) const { return tensors_[tensor].consumers; }
  // The only node that reads a tensor, if it is of that type and nothing else uses the tensor; else kNone.
  int only_consumer(int tensor, const char* type) const;
  // Whether the graph returns a tensor, or a subgraph reads it.
  bool is_used_elsewhere(int tensor) const { return tensors_[tensor].used_elsewhere; }
  // A tensor's value, if it is an initializer that cannot change; else null. Read when it is first asked for.
  const ort::Tensor* constant(int tensor) const;
  // A constant of one fp32 number; else none.
  std::optional<float> number(int tensor) const;
  int input(int node, size_t index) const;
  int output(int node) const { return nodes_[node].outputs[0]; }
  // The other one of a node's two inputs.
  int other_input(int node, int tensor) const;

  // Attributes, or the given value where a node has none.
  int64_t integer(int node, const char* name, int64_t otherwise) const;
  float number(int node, const char* name, float otherwise) const;
  std::string text(int node, const char* name) const;
  std::vector<int64_t> integers(int node, const char* name) const;

  // Whether nodes are a block: what they compute leaves them through `outputs` only, and all tensors that they read
  // from outside are constants or in `inputs`. If each input reaches each output, no other nodes lie between two nodes
  // of a block, and no cycle arises when blocks become one node each.
  bool is_block(const std::set<int>& nodes, const std::vector<int>& inputs, const std::vector<int>& outputs) const;

 private:
  struct TensorView {
    const ort::ValueInfo* handle;
    std::string name;
    int producer = kNone;
    std::vector<int> consumers;
    bool used_elsewhere = false;
    bool is_read = false;
    std::unique_ptr<ort::Tensor> value;
  };

  int find(const ort::ValueInfo* value);
  // Bytes of an attribute; 0, and nothing is written, where the node has none.
  size_t read(int node, const char* name, int kind, void* to, size_t room) const;

  const void* api_;
  std::vector<NodeView> nodes_;
  mutable std::vector<TensorView> tensors_;  // values are read late
  std::map<std::string, int> numbers_;
};
