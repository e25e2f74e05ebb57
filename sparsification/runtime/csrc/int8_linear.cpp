#include "int8_linear.h"

#include <algorithm>
#include <mutex>

#include "cpu.h"

Int8Linear::Int8Linear(const SparseRows& rows, const int8_t* values, const LayerCost& cost, LayerOutputs layer,
                       int input_zero)
    : kernels_(kernels()), layer_(std::move(layer)), input_zero_(input_zero) {
  if (cost.windows < cost.blocks) {
    windows_ = std::make_unique<PackedWindows>(rows, values);
  } else {
    blocks_ = std::make_unique<PackedBlocks>(rows, values);
  }
  int64_t size = windows_ ? windows_->padded_outputs() : blocks_->padded_outputs();
  layer_.scale.resize(size, 0.0f);
  layer_.bias.resize(size, 0.0f);
  if (layer_.output_params.empty()) return;
  layer_.output_params.resize(size, make_quant_params(1.0f, 0));
  if (!windows_) return;
  for (const QuantParams& one : layer_.output_params) {
    lanes_.scale.push_back(one.scale);
    lanes_.reciprocal.push_back(one.reciprocal);
    lanes_.low.push_back(one.low);
    lanes_.high.push_back(one.high);
    lanes_.zero.push_back(one.zero);
  }
}

void Int8Linear::run(const void* api, const ort::KernelContext* context, const uint8_t* x, int64_t tokens,
                     void* y, const RunParams* params) const {
  if (tokens == 0) return;
  const float *scale = layer_.scale.data(), *bias = layer_.bias.data();
  int input_zero = input_zero_;
  if (params) {
    thread_local std::vector<float> scales;
    scales.assign(layer_.scale.size(), params->is_one ? *params->scale : 0.0f);
    if (!params->is_one) std::copy_n(params->scale, outputs(), scales.begin());
    scale = scales.data();
    input_zero = params->input_zero;
  }
  bool quantized = !layer_.output_params.empty();
  auto tiles = [&](int64_t size) { return (tokens + size - 1) / size; };
  if (windows_) {
    const WindowWeight& weight = windows_->view();
    WindowLinear linear{weight,
                        {scale, bias, layer_.gelu, quantized ? lanes_.scale.data() : nullptr, lanes_.reciprocal.data(),
                         lanes_.low.data(), lanes_.high.data(), lanes_.zero.data()},
                        input_zero};
    // Outputs that are put back into their places are so when all groups are done.
    int64_t parts = weight.order ? 1 : weight.groups, each = weight.groups / parts;
    ort::parallel_tiles(api, context, tiles(kWindowTokens), parts, [&](int64_t tile, int64_t first, int64_t end) {
      void* room = scratch(window_scratch(weight, (end - first) * each));
      kernels_.window_linear(linear, x, tokens, tile, first * each, end * each, y, room);
    });
  } else {
    const SparseWeight& weight = blocks_->view();
    const QuantParams* output_params = quantized ? layer_.output_params.data() : nullptr;
    Linear linear{weight, {scale, bias, layer_.gelu, output_params}, input_zero};
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
      auto make_panel = [&] { kernels_.linear_panel(weight, x, tokens, tile, panel); };
      if (few) {
        std::call_once(made[tile], make_panel);
      } else {
        make_panel();
      }
      kernels_.linear(linear, panel, tokens, tile, first, end, y, sums);
    };
    ort::parallel_tiles(api, context, count, weight.parts, work, kTasks);
  }
}
