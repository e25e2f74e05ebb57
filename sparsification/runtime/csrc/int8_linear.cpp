#include "int8_linear.h"

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
                     void* y) const {
  if (tokens == 0) return;
  const float *scale = layer_.scale.data(), *bias = layer_.bias.data();
  bool quantized = !layer_.output_params.empty();
  auto tiles = [&](int64_t size) { return (tokens + size - 1) / size; };
  if (windows_) {
    const WindowWeight& weight = windows_->view();
    WindowLinear linear{weight,
                        {scale, bias, layer_.gelu, quantized ? lanes_.scale.data() : nullptr, lanes_.reciprocal.data(),
                         lanes_.low.data(), lanes_.high.data(), lanes_.zero.data()},
                        input_zero_};
    // Outputs that are put back into their places are so when all groups are done.
    int64_t parts = weight.order ? 1 : weight.groups, each = weight.groups / parts;
    ort::parallel_tiles(api, context, tiles(kWindowTokens), parts, [&](int64_t tile, int64_t first, int64_t end) {
      void* room = scratch(window_scratch(weight, (end - first) * each));
      kernels_.window_linear(linear, x, tokens, tile, first * each, end * each, y, room);
    });
  } else {
    const SparseWeight& weight = blocks_->view();
    const QuantParams* params = quantized ? layer_.output_params.data() : nullptr;
    Linear linear{weight, {scale, bias, layer_.gelu, params}, input_zero_};
    int64_t count = tiles(kTokens);
    size_t panel = panel_size(weight);
    if (count >= 4) {
      ort::parallel(api, context, (size_t)count, [&](size_t tile) {
        uint8_t* memory = (uint8_t*)scratch(panel + sums_size(weight.parts));
        kernels_.linear_panel(weight, x, tokens, (int64_t)tile, memory);
        kernels_.linear(linear, memory, tokens, (int64_t)tile, 0, weight.parts, y, (int32_t*)(memory + panel));
      });
      return;
    }
    // Few tiles are split by outputs: first their panels, then the pieces that read them.
    uint8_t* panels = (uint8_t*)shared_scratch(count * panel);
    ort::parallel(api, context, (size_t)count, [&](size_t tile) {
      kernels_.linear_panel(weight, x, tokens, (int64_t)tile, panels + tile * panel);
    });
    ort::parallel_tiles(api, context, count, weight.parts, [&](int64_t tile, int64_t first, int64_t end) {
      int32_t* sums = (int32_t*)scratch(sums_size(end - first));
      kernels_.linear(linear, panels + tile * panel, tokens, tile, first, end, y, sums);
    });
  }
}
