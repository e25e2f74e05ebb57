// A block: nodes of a graph that the provider takes as one, and how they are computed.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph.h"

// Computes what the nodes of a block compute. Made when the graph is looked at, with all constants that it needs.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual void compute(const void* api, ort::KernelContext* context) const = 0;

  // Finds the places of the tensors among the inputs and outputs of the node that ONNX Runtime has made of the block.
  // Outputs that nothing reads have none.
  void connect(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs);
  bool computes_one_of(const std::vector<std::string>& outputs) const;

 protected:
  // Each returns the number by which `input` and `output` know the tensor.
  size_t add_input(const std::string& name);
  size_t add_output(const std::string& name);
  ort::Tensor input(const void* api, const ort::KernelContext* context, size_t number) const {
    return ort::input(api, context, input_places_[number]);
  }
  // Null if nothing reads it.
  void* output(const void* api, ort::KernelContext* context, size_t number, const std::vector<int64_t>& shape) const {
    size_t place = output_places_[number];
    return place == kNowhere ? nullptr : ort::output(api, context, place, shape);
  }

 private:
  static constexpr size_t kNowhere = (size_t)-1;

  std::vector<std::string> input_names_, output_names_;
  std::vector<size_t> input_places_, output_places_;
};

struct Block {
  std::set<int> nodes;
  std::unique_ptr<Plan> plan;
};

// The kernels' integers are uint8. int8 becomes uint8 and back by an offset of 128, which flips the highest bit.
void flip(const uint8_t* from, uint8_t* to, int64_t count);
// A tensor's integers as uint8, in `memory` if they are int8.
const uint8_t* unsigned_integers(const ort::Tensor& tensor, std::vector<uint8_t>& memory);

// A tensor of numbers that is a constant or an input of a block, such as the shape of a Reshape.
struct Integers {
  std::vector<int64_t> values;
  size_t input;
  bool is_constant;
};

// What a Reshape of a tensor of that shape results in. Throws std::invalid_argument if there is no such shape.
std::vector<int64_t> reshaped(const std::vector<int64_t>& shape, std::vector<int64_t> wanted);

// A tensor's numbers, repeated to a larger shape as ONNX does: in `memory` if they have to be copied.
// Throws std::invalid_argument if the shapes do not fit.
const float* broadcast(const ort::Tensor& tensor, const std::vector<int64_t>& shape, std::vector<float>& memory);
