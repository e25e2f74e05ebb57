// The operators SparseLinearFloat and SparseFeedForwardFloat: one Linear layer in fp32, or two in a row, of their
// non-zero weights.
//
//   SparseLinearFloat      x (fp32 [.., inputs]), counts, gaps, values, bias -> fp32 [.., outputs]
//   SparseFeedForwardFloat the same, and the second layer's counts, gaps, values, bias
//
// Weights are constants, checked and packed once, when a session creates its kernels. The first layer's output stays a
// panel, as the second one reads it; GELU belongs to the first.
#include "float_layers.h"
#include "operators.h"

using namespace ort;

namespace {

template <int layers>
struct SparseFloat {
  static constexpr const char* kName = layers == 1 ? "SparseLinearFloat" : "SparseFeedForwardFloat";
  static constexpr int kInputs[] = {kFloat, kUint32, kUint8, kFloat, kFloat, kUint32, kUint8, kFloat, kFloat};
  static constexpr size_t kInputCount = 1 + 4 * layers;
  static constexpr int kOutputs[] = {kFloat};
  static constexpr size_t kOutputCount = 1;

  FloatLayers stack;

  explicit SparseFloat(const Node& node) : stack(node.integer("gelu", 0, 1) == 1) {
    int64_t inputs = node.integer("inputs", 1, kMaxInputs);
    for (int layer = 0; layer < layers; layer++) {
      size_t index = 1 + 4 * layer;
      Tensor counts = node.constant(index, kUint32, "counts"), gaps = node.constant(index + 1, kUint8, "gaps");
      Tensor values = node.constant(index + 2, kFloat, "values"), biases = node.constant(index + 3, kFloat, "bias");
      int64_t outputs = counts.count(), entries = gaps.count();
      int width = values.shape.size() == 1 ? 1 : 4;
      check(values.count() == width * entries, "values are not one or four for each gap");
      check(biases.count() == outputs, "bias does not have a number for each output");
      SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
      stack.add(rows, values.as<float>(), biases.values<float>());
      inputs = outputs;
    }
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    check(!x.shape.empty() && x.shape.back() == stack.inputs(), "the input is not as wide as the weight");
    std::vector<int64_t> shape = x.shape;
    shape.back() = stack.outputs();
    stack.run(api, context, x.as<float>(), x.count() / stack.inputs(), (float*)output(api, context, 0, shape));
  }
};

}  // namespace

CustomOp* make_sparse_linear_float(const void* api) { return new Operator<SparseFloat<1>>(api); }
CustomOp* make_sparse_feed_forward_float(const void* api) { return new Operator<SparseFloat<2>>(api); }
