// The operators SparseLinearFloat and SparseFeedForwardFloat: one Linear layer in fp32, or two in a row, of their
// non-zero weights.
//
//   SparseLinearFloat      x (fp32 [.., inputs]), counts, gaps, values, bias -> fp32 [.., outputs]
//   SparseFeedForwardFloat the same, and the second layer's counts, gaps, values, bias
//
// Weights are constants, checked and packed once, when a session creates its kernels. The first layer's output stays a
// panel, as the second one reads it; GELU belongs to the first.
#include <algorithm>
#include <memory>
#include <vector>

#include "cpu.h"
#include "float_weight.h"
#include "operators.h"
#include "ort_helpers.h"

using namespace ort;

namespace {

struct Layer {
  std::unique_ptr<PackedFloats> weight;
  std::vector<float> bias;

  Layer(const Node& node, size_t index, int64_t inputs) {
    Tensor counts = node.constant(index, kUint32, "counts"), gaps = node.constant(index + 1, kUint8, "gaps");
    Tensor values = node.constant(index + 2, kFloat, "values"), biases = node.constant(index + 3, kFloat, "bias");
    int64_t outputs = counts.count(), entries = gaps.count();
    int width = values.shape.size() == 1 ? 1 : 4;
    check(values.count() == width * entries, "values are not one or four for each gap");
    check(biases.count() == outputs, "bias does not have a number for each output");
    SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
    weight = std::make_unique<PackedFloats>(rows, values.as<float>());
    bias = padded(biases, weight->padded_outputs());
  }
};

template <int layers>
struct SparseFloat {
  static constexpr const char* kName = layers == 1 ? "SparseLinearFloat" : "SparseFeedForwardFloat";
  static constexpr int kInputs[] = {kFloat, kUint32, kUint8, kFloat, kFloat, kUint32, kUint8, kFloat, kFloat};
  static constexpr size_t kInputCount = 1 + 4 * layers;
  static constexpr int kOutputs[] = {kFloat};
  static constexpr size_t kOutputCount = 1;

  std::vector<Layer> stack;
  bool gelu;

  explicit SparseFloat(const Node& node) : gelu(node.integer("gelu", 0, 1) == 1) {
    int64_t inputs = node.integer("inputs", 1, kMaxInputs);
    for (int layer = 0; layer < layers; layer++) {
      stack.emplace_back(node, 1 + 4 * layer, inputs);
      inputs = stack.back().weight->view().outputs;
    }
  }

  const FloatWeight& weight(int layer) const { return stack[layer].weight->view(); }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    int64_t inputs = weight(0).inputs, outputs = weight(layers - 1).outputs;
    check(!x.shape.empty() && x.shape.back() == inputs, "the input is not as wide as the weight");
    int64_t tokens = x.count() / inputs, tiles = (tokens + kFloatTokens - 1) / kFloatTokens;
    std::vector<int64_t> shape = x.shape;
    shape.back() = outputs;
    float* y = (float*)output(api, context, 0, shape);
    if (tokens == 0) return;
    const Kernels& run = kernels();
    // What the stages leave of a tile: the panel, each layer's sums.
    size_t sizes[layers + 1] = {float_panel_size(weight(0))}, tile_size = sizes[0];
    for (int layer = 0; layer < layers; layer++)
      tile_size += sizes[layer + 1] = float_sums_size(weight(layer).parts);
    auto count = [&](int64_t tile) { return std::min(tokens - tile * kFloatTokens, (int64_t)kFloatTokens); };
    auto transpose = [&](int64_t tile, int64_t first, int64_t end, float* memory) {
      for (int64_t slice = first; slice < end; slice++)
        run.float_panel(x.as<float>(), inputs, tokens, tile, slice, memory);
    };
    auto multiply = [&](int layer, int64_t tile, int64_t first, int64_t end, float* memory) {
      for (int before = 0; before < layer; before++) memory += sizes[before];
      float* sums = memory + sizes[layer] + float_sums_size(first);
      FloatLinear linear{weight(layer), stack[layer].bias.data(), gelu && layer == 0};
      run.float_linear(linear, memory, count(tile), first, end, sums);
      if (layer + 1 < layers) return;
      int64_t row = first * kFloatPartRows, rows = std::min(end * kFloatPartRows, outputs) - row;
      run.float_output(sums, count(tile), rows, y + tile * kFloatTokens * outputs + row, outputs);
    };
    // Where it is enough to share out tiles, what the stages leave of one stays in its thread's cache.
    if (tiles == 2 || tiles > 3) {
      parallel(api, context, (size_t)tiles, [&](size_t tile) {
        float* memory = (float*)scratch(sizeof(float) * tile_size);
        transpose((int64_t)tile, 0, weight(0).slices, memory);
        for (int layer = 0; layer < layers; layer++) multiply(layer, (int64_t)tile, 0, weight(layer).parts, memory);
      });
      return;
    }
    // One or three are shared out stage by stage, in parts.
    float* shared = (float*)shared_scratch(sizeof(float) * tiles * tile_size);
    parallel_tiles(api, context, tiles, weight(0).slices, [&](int64_t tile, int64_t first, int64_t end) {
      transpose(tile, first, end, shared + tile * tile_size);
    });
    for (int layer = 0; layer < layers; layer++)
      parallel_tiles(api, context, tiles, weight(layer).parts, [&](int64_t tile, int64_t first, int64_t end) {
        multiply(layer, tile, first, end, shared + tile * tile_size);
      });
  }
};

}  // namespace

CustomOp* make_sparse_linear_float(const void* api) { return new Operator<SparseFloat<1>>(api); }
CustomOp* make_sparse_feed_forward_float(const void* api) { return new Operator<SparseFloat<2>>(api); }
