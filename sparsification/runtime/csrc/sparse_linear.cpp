// The operators SparseLinear and SparseLinearQuantized: a Linear layer on integers, of its non-zero weights.
//
//   SparseLinear          x (uint8 [.., inputs]), counts, gaps, values, scale, bias -> fp32 [.., outputs]
//   SparseLinearQuantized the same, output_scale, output_zero_point                 -> uint8 [.., outputs]
//
// Weights are constants, checked and packed once, when a session creates its kernels: in 1x4 blocks or in windows,
// whichever is faster on this CPU.
#include <memory>
#include <string>
#include <vector>

#include "int8_linear.h"
#include "operators.h"

using namespace ort;

namespace {

template <bool quantized>
struct SparseLinear {
  static constexpr const char* kName = quantized ? "SparseLinearQuantized" : "SparseLinear";
  static constexpr int kInputs[] = {kUint8, kUint32, kUint8, kInt8,
                                    kFloat, kFloat,  kFloat,  kUint8};
  static constexpr size_t kInputCount = quantized ? 8 : 6;
  static constexpr int kOutputs[] = {quantized ? kUint8 : kFloat};
  static constexpr size_t kOutputCount = 1;

  std::unique_ptr<Int8Linear> layer;

  explicit SparseLinear(const Node& node) {
    Tensor counts = node.constant(1, kUint32, "counts"), gaps = node.constant(2, kUint8, "gaps");
    Tensor values = node.constant(3, kInt8, "values");
    int64_t entries = gaps.count();
    int64_t inputs = node.integer("inputs", 1, kMaxInputs), outputs = counts.count();
    // All sizes are checked before any of them decides how much is allocated.
    auto for_each_output = [&](size_t index, int type, const char* name) {
      Tensor tensor = node.constant(index, type, name);
      check(tensor.count() == outputs, std::string(name) + " does not have a number for each output");
      return tensor;
    };
    int width = values.shape.size() == 1 ? 1 : 4;
    check(values.count() == width * entries, "values are not one or four for each gap");
    Tensor scales = for_each_output(4, kFloat, "scale"), biases = for_each_output(5, kFloat, "bias");
    std::vector<Tensor> params;
    if (quantized)
      params = {for_each_output(6, kFloat, "output_scale"), for_each_output(7, kUint8, "output_zero_point")};
    bool gelu = node.integer("gelu", 0, 1) == 1;
    int input_zero = (int)node.integer("zero_point", 0, 255);
    SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
    LayerOutputs each{scales.values<float>(), biases.values<float>(), {}, gelu};
    for (int64_t row = 0; quantized && row < outputs; row++) {
      Node::check_scale(params[0].as<float>()[row], "output_scale");
      each.output_params.push_back(make_quant_params(params[0].as<float>()[row], params[1].as<uint8_t>()[row]));
    }
    LayerCost cost = layer_cost(rows, layer_work(rows, values.as<int8_t>()));
    layer = std::make_unique<Int8Linear>(rows, values.as<int8_t>(), cost, std::move(each), input_zero);
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    check(!x.shape.empty() && x.shape.back() == layer->inputs(), "the input is not as wide as the weight");
    std::vector<int64_t> shape = x.shape;
    shape.back() = layer->outputs();
    layer->run(api, context, x.as<uint8_t>(), x.count() / layer->inputs(), output(api, context, 0, shape));
  }
};

}  // namespace

CustomOp* make_sparse_linear(const void* api) { return new Operator<SparseLinear<false>>(api); }
CustomOp* make_sparse_linear_quantized(const void* api) { return new Operator<SparseLinear<true>>(api); }
