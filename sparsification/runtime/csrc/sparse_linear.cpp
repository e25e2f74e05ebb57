// The operators SparseLinear and SparseLinearQuantized: a Linear layer on integers, of its non-zero weights.
//
//   SparseLinear          x (uint8 [.., inputs]), counts, gaps, values, scale, bias -> fp32 [.., outputs]
//   SparseLinearQuantized the same, output_scale, output_zero_point                 -> uint8 [.., outputs]
//
// Weights are constants, checked and packed once, when a session creates its kernels: in 1x4 blocks or in windows,
// whichever is faster on this CPU.
#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block_weight.h"
#include "cost.h"
#include "cpu.h"
#include "operators.h"
#include "ort_helpers.h"
#include "window_weight.h"

using namespace ort;

namespace {

// Quantization parameters of each output, by kind.
struct LaneParams {
  std::vector<float> scale, reciprocal, low, high;
  std::vector<int32_t> zero;

  LaneParams() = default;
  explicit LaneParams(const std::vector<QuantParams>& params) {
    for (const QuantParams& one : params) {
      scale.push_back(one.scale);
      reciprocal.push_back(one.reciprocal);
      low.push_back(one.low);
      high.push_back(one.high);
      zero.push_back(one.zero);
    }
  }
  LaneEpilogue epilogue(const float* sum_scale, const float* bias, bool gelu) const {
    return {sum_scale, bias, gelu, scale.empty() ? nullptr : scale.data(), reciprocal.data(), low.data(), high.data(),
            zero.data()};
  }
};

template <bool quantized>
struct SparseLinear {
  static constexpr const char* kName = quantized ? "SparseLinearQuantized" : "SparseLinear";
  static constexpr int kInputs[] = {kUint8, kUint32, kUint8, kInt8,
                                    kFloat, kFloat,  kFloat,  kUint8};
  static constexpr size_t kInputCount = quantized ? 8 : 6;
  static constexpr int kOutputs[] = {quantized ? kUint8 : kFloat};
  static constexpr size_t kOutputCount = 1;

  const Kernels& run = kernels();  // the weight is packed for them
  int64_t inputs, outputs;
  bool gelu;
  int input_zero;
  std::unique_ptr<PackedBlocks> blocks;  // one of the two
  std::unique_ptr<PackedWindows> windows;
  std::vector<float> scale, bias;
  std::vector<QuantParams> output_params;
  LaneParams lane_params;

  explicit SparseLinear(const Node& node) {
    Tensor counts = node.constant(1, kUint32, "counts"), gaps = node.constant(2, kUint8, "gaps");
    Tensor values = node.constant(3, kInt8, "values");
    int64_t entries = gaps.count();
    inputs = node.integer("inputs", 1, kMaxInputs);
    outputs = counts.count();
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
    gelu = node.integer("gelu", 0, 1) == 1;
    input_zero = (int)node.integer("zero_point", 0, 255);
    SparseRows rows = decode_rows({inputs, outputs, entries, width, counts.as<uint32_t>(), gaps.as<uint8_t>()});
    LayerCost cost = layer_cost(rows, layer_work(rows, values.as<int8_t>()));
    if (cost.windows < cost.blocks) {
      windows = std::make_unique<PackedWindows>(rows, values.as<int8_t>());
    } else {
      blocks = std::make_unique<PackedBlocks>(rows, values.as<int8_t>());
    }
    int64_t size = windows ? windows->padded_outputs() : blocks->padded_outputs();
    scale = padded(scales, size);
    bias = padded(biases, size);
    if (quantized) {
      for (int64_t row = 0; row < outputs; row++) {
        Node::check_scale(params[0].as<float>()[row], "output_scale");
        output_params.push_back(make_quant_params(params[0].as<float>()[row], params[1].as<uint8_t>()[row]));
      }
      output_params.resize(size, make_quant_params(1.0f, 0));
      if (windows) lane_params = LaneParams(output_params);
    }
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    check(!x.shape.empty() && x.shape.back() == inputs, "the input is not as wide as the weight");
    int64_t tokens = x.count() / inputs;
    std::vector<int64_t> shape = x.shape;
    shape.back() = outputs;
    void* y = output(api, context, 0, shape);
    if (tokens == 0) return;
    const uint8_t* from = x.as<uint8_t>();
    auto tiles = [&](int64_t size) { return (tokens + size - 1) / size; };
    if (windows) {
      const WindowWeight& weight = windows->view();
      WindowLinear linear{weight, lane_params.epilogue(scale.data(), bias.data(), gelu), input_zero};
      // Outputs that are put back into their places are so when all groups are done.
      int64_t parts = weight.order ? 1 : weight.groups, each = weight.groups / parts;
      parallel_tiles(api, context, tiles(kWindowTokens), parts, [&](int64_t tile, int64_t first, int64_t end) {
        void* room = scratch(window_scratch(weight, (end - first) * each));
        run.window_linear(linear, from, tokens, tile, first * each, end * each, y, room);
      });
    } else {
      const SparseWeight& weight = blocks->view();
      Linear linear{weight, {scale.data(), bias.data(), gelu, quantized ? output_params.data() : nullptr}, input_zero};
      // Several threads may work on one of few tiles: the first of them makes the panel for all.
      constexpr int64_t kTasks = 8;
      int64_t count = tiles(kTokens);
      bool few = count < kTasks;
      size_t size = panel_size(weight);
      uint8_t* shared = few ? (uint8_t*)shared_scratch(count * size) : nullptr;
      std::once_flag made[kTasks];
      auto work = [&](int64_t tile, int64_t first, int64_t end) {
        int32_t* sums = (int32_t*)scratch(sums_size(end - first) + (few ? 0 : size));
        uint8_t* panel = few ? shared + tile * size : (uint8_t*)sums + sums_size(end - first);
        auto make_panel = [&] { run.linear_panel(weight, from, tokens, tile, panel); };
        if (few) {
          std::call_once(made[tile], make_panel);
        } else {
          make_panel();
        }
        run.linear(linear, panel, tokens, tile, first, end, y, sums);
      };
      parallel_tiles(api, context, count, weight.parts, work, kTasks);
    }
  }
};

}  // namespace

CustomOp* make_sparse_linear(const void* api) { return new Operator<SparseLinear<false>>(api); }
CustomOp* make_sparse_linear_quantized(const void* api) { return new Operator<SparseLinear<true>>(api); }
