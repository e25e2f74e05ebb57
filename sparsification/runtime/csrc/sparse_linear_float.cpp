// The operator SparseLinearFloat: a Linear layer in fp32, of its non-zero weights.
//
//   x (fp32 [.., inputs]), counts, gaps, values, bias -> fp32 [.., outputs]
//
// Weights are constants, checked and packed once, when a session creates its kernels.
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu.h"
#include "float_weight.h"
#include "operators.h"
#include "ort_helpers.h"

using namespace ort;

namespace {

struct SparseLinearFloat {
  static constexpr const char* kName = "SparseLinearFloat";
  static constexpr int kInputs[] = {kFloat, kUint32, kUint8, kFloat, kFloat};
  static constexpr size_t kInputCount = 5;
  static constexpr int kOutputs[] = {kFloat};
  static constexpr size_t kOutputCount = 1;

  std::unique_ptr<PackedFloats> weight;
  std::vector<float> bias;
  FloatLinear linear;

  explicit SparseLinearFloat(const Node& node) {
    Tensor counts = node.constant(1, kUint32, "counts"), gaps = node.constant(2, kUint8, "gaps");
    Tensor values = node.constant(3, kFloat, "values"), biases = node.constant(4, kFloat, "bias");
    int64_t inputs = node.integer("inputs", 1, kMaxInputs), outputs = counts.count(), entries = gaps.count();
    int width = values.shape.size() == 1 ? 1 : 4;
    check(values.count() == width * entries, "values are not one or four for each gap");
    check(biases.count() == outputs, "bias does not have a number for each output");
    SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
    weight = std::make_unique<PackedFloats>(rows, values.as<float>());
    bias = padded(biases, weight->padded_outputs());
    linear = {weight->view(), bias.data(), node.integer("gelu", 0, 1) == 1};
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    const FloatWeight& view = linear.weight;
    check(!x.shape.empty() && x.shape.back() == view.inputs, "the input is not as wide as the weight");
    int64_t tokens = x.count() / view.inputs;
    std::vector<int64_t> shape = x.shape;
    shape.back() = view.outputs;
    float* y = (float*)output(api, context, 0, shape);
    if (tokens == 0) return;
    const Kernels& run = kernels();
    int64_t tiles = (tokens + kFloatTokens - 1) / kFloatTokens, pieces = pieces_of(view.parts, tiles);
    int64_t parts = (view.parts + pieces - 1) / pieces;
    pieces = (view.parts + parts - 1) / parts;
    size_t panel_size = float_panel_size(view), sums_size = float_sums_size(parts);
    auto sums = [&](int64_t tile, int64_t first, const float* panel, float* memory) {
      int64_t token = tile * kFloatTokens, count = std::min(tokens - token, (int64_t)kFloatTokens);
      int64_t row = first * kFloatPartRows, end = std::min(first + parts, view.parts);
      run.float_linear(linear, panel, count, first, end, memory);
      run.float_output(memory, count, std::min(end * kFloatPartRows, view.outputs) - row,
                       y + token * view.outputs + row, view.outputs);
    };
    if (pieces == 1) {
      parallel(api, context, (size_t)tiles, [&](size_t tile) {
        float* panel = (float*)scratch(sizeof(float) * (panel_size + sums_size));
        for (int64_t slice = 0; slice < view.slices; slice++)
          run.float_panel(x.as<float>(), view.inputs, tokens, (int64_t)tile, slice, panel);
        sums((int64_t)tile, 0, panel, panel + panel_size);
      });
      return;
    }
    // Few tiles: threads share their panels.
    float* panels = (float*)shared_scratch(sizeof(float) * tiles * panel_size);
    parallel(api, context, (size_t)(tiles * view.slices), [&](size_t index) {
      int64_t tile = (int64_t)index / view.slices, slice = (int64_t)index % view.slices;
      run.float_panel(x.as<float>(), view.inputs, tokens, tile, slice, panels + tile * panel_size);
    });
    parallel(api, context, (size_t)(tiles * pieces), [&](size_t index) {
      int64_t tile = (int64_t)index / pieces, first = (int64_t)index % pieces * parts;
      sums(tile, first, panels + tile * panel_size, (float*)scratch(sizeof(float) * sums_size));
    });
  }
};

}  // namespace

CustomOp* make_sparse_linear_float(const void* api) { return new Operator<SparseLinearFloat>(api); }
