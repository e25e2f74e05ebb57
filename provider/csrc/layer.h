// Linear layers of a graph: a MatMul or Gemm with a constant weight, with what stands around it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cost.h"
#include "float_layers.h"
#include "int8_linear.h"
#include "quantization.h"

struct Layer {
  std::string name;      // of its weight
  std::string form;      // how its weight is stored: int8 (uint8, too), fp32 or other
  std::string quantization;  // of int8, if it has been read: QDQ, QOperator, dynamic or integers
  int64_t inputs = 0, outputs = 0;
  double zeros = -1;     // share of the weights that are zero; -1: not counted
  std::string refusal;   // why it cannot be taken; "" if it can be

  // Only if it can be taken:
  std::set<int> nodes;   // from the input's DequantizeLinear, if there is one, to the Add of the bias
  int dequantize = kNone, input = kNone, output = kNone;  // a node, an 8-bit or fp32 tensor, an fp32 tensor
  // Of a Gemm between two Reshapes, as which ONNX Runtime computes a MatMul with static shapes.
  std::vector<int64_t> output_shape;
  Quantization params{}; // of the input
  int dynamic_zero = kNone, dynamic_scale = kNone;  // tensors of each run: the input's zero point, the sums' scales
  std::optional<Quantization> output_params;        // of an operator whose output is quantized
  std::vector<float> scale, bias;  // of the sums (int8 only), and for each output
  SparseRows rows;                 // empty if there are so many weights that they have not been read
  std::vector<int8_t> values;      // of an int8 layer
  bool is_split = false;           // some weights are several entries of `rows`
  std::vector<float> float_values; // of an fp32 layer
  LayerCost cost{};

  bool is_float() const { return form == "fp32"; }
  bool is_dynamic() const { return dynamic_zero != kNone; }
  bool is_read() const { return !rows.starts.empty(); }
  double sparse_cost() const { return cost.blocks < cost.windows ? cost.blocks : cost.windows; }
  bool can_be_taken() const { return refusal.empty(); }
  bool pays() const;
  void forget_weight() {
    rows = SparseRows();
    values = std::vector<int8_t>();
    float_values = std::vector<float>();
  }
};

// All Linear layers, in the order of the graph.
// always: also read the weights of layers that have too few zeros to be faster.
std::vector<Layer> find_layers(const GraphView& graph, bool always);

// What follows a layer and can be computed with it.
struct Tail {
  std::set<int> nodes;
  int output;                               // the layer's own if nothing follows
  bool gelu = false;
  std::optional<Quantization> quantization; // of the output; none: the output is fp32
};
Tail no_tail(const Layer& layer);
Tail find_tail(const GraphView& graph, const Layer& layer);

// int8 layers of one input as one, their outputs side by side.
std::unique_ptr<Int8Linear> pack(const std::vector<const Layer*>& layers, const std::vector<QuantParams>& params,
                                 bool gelu);
// The same of fp32 layers, added to others.
void pack(const std::vector<const Layer*>& layers, FloatLayers& to);
