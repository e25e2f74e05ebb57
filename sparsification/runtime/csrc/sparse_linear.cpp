// The operators SparseLinear and SparseLinearQuantized: a Linear layer on integers, of its non-zero 1x4 blocks.
//
//   SparseLinear          x (uint8 [.., inputs]), counts, gaps, values, scale, bias -> fp32 [.., outputs]
//   SparseLinearQuantized the same, output_scale, output_zero_point                    -> uint8 [.., outputs]
//
// Weights are constants, checked and packed once, when a session creates its kernels.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "block_weight.h"
#include "cpu.h"
#include "operators.h"
#include "ort_helpers.h"

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

  std::unique_ptr<PackedBlocks> weight;
  std::vector<float> scale, bias;
  std::vector<QuantParams> output_params;
  Linear linear;

  explicit SparseLinear(const Node& node) {
    Tensor counts = node.constant(1, kUint32, "counts"), gaps = node.constant(2, kUint8, "gaps");
    Tensor values = node.constant(3, kInt8, "values");
    int64_t inputs = node.integer("inputs", 1, kMaxInputs), outputs = counts.count(), entries = gaps.count();
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
    SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
    weight = std::make_unique<PackedBlocks>(rows, values.as<int8_t>());
    int64_t size = weight->padded_outputs();
    scale = padded(scales, size);
    bias = padded(biases, size);
    if (quantized) {
      for (int64_t row = 0; row < outputs; row++) {
        Node::check_scale(params[0].as<float>()[row], "output_scale");
        output_params.push_back(make_quant_params(params[0].as<float>()[row], params[1].as<uint8_t>()[row]));
      }
      output_params.resize(size, make_quant_params(1.0f, 0));
    }
    linear = {weight->view(),
              {scale.data(), bias.data(), node.integer("gelu", 0, 1) == 1, quantized ? output_params.data() : nullptr},
              (int)node.integer("zero_point", 0, 255)};
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    const SparseWeight& view = linear.weight;
    check(!x.shape.empty() && x.shape.back() == view.inputs, "the input is not as wide as the weight");
    int64_t tokens = x.count() / view.inputs, tiles = (tokens + kTokens - 1) / kTokens;
    std::vector<int64_t> shape = x.shape;
    shape.back() = view.outputs;
    void* y = output(api, context, 0, shape);
    if (tokens == 0) return;
    int64_t pieces = pieces_of(view.parts, tiles);
    int64_t parts = (view.parts + pieces - 1) / pieces;
    pieces = (view.parts + parts - 1) / parts;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(tiles * pieces), [&](size_t index) {
      int64_t tile = (int64_t)index / pieces, first = (int64_t)index % pieces * parts;
      int64_t end = std::min(first + parts, view.parts);
      run.linear(linear, x.as<uint8_t>(), tokens, tile, first, end, y, scratch(linear_scratch(view, end - first)));
    });
  }
};

}  // namespace

CustomOp* make_sparse_linear(const void* api) { return new Operator<SparseLinear<false>>(api); }
CustomOp* make_sparse_linear_quantized(const void* api) { return new Operator<SparseLinear<true>>(api); }
