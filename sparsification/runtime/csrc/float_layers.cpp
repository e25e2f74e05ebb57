#include "float_layers.h"

#include <algorithm>

#include "cpu.h"

void FloatLayers::add(const SparseRows& rows, const float* values, std::vector<float> bias) {
  auto weight = std::make_unique<PackedFloats>(rows, values);
  bias.resize(weight->padded_outputs(), 0.0f);
  layers_.push_back({std::move(weight), std::move(bias)});
}

void FloatLayers::run(const void* api, const ort::KernelContext* context, const float* x, int64_t tokens,
                      float* y) const {
  if (tokens == 0) return;
  int64_t tiles = (tokens + kFloatTokens - 1) / kFloatTokens;
  const Kernels& run = kernels();
  // What the stages leave of a tile: the panel, each layer's sums.
  size_t tile_size = float_panel_size(weight(0));
  std::vector<size_t> starts{0};
  for (size_t layer = 0; layer < layers_.size(); layer++) {
    starts.push_back(tile_size);
    tile_size += float_sums_size(weight(layer).parts);
  }
  auto count = [&](int64_t tile) { return std::min(tokens - tile * kFloatTokens, (int64_t)kFloatTokens); };
  auto transpose = [&](int64_t tile, int64_t first, int64_t end, float* memory) {
    for (int64_t slice = first; slice < end; slice++) run.float_panel(x, inputs(), tokens, tile, slice, memory);
  };
  auto multiply = [&](size_t layer, int64_t tile, int64_t first, int64_t end, float* memory) {
    float* sums = memory + starts[layer + 1] + float_sums_size(first);
    FloatLinear linear{weight(layer), layers_[layer].bias.data(), gelu_ && layer == 0};
    run.float_linear(linear, memory + starts[layer], count(tile), first, end, sums);
    if (layer + 1 < layers_.size()) return;
    int64_t row = first * kFloatPartRows, rows = std::min(end * kFloatPartRows, outputs()) - row;
    run.float_output(sums, count(tile), rows, y + tile * kFloatTokens * outputs() + row, outputs());
  };
  // Where it is enough to share out tiles, what the stages leave of one stays in its thread's cache.
  if (tiles == 2 || tiles > 3) {
    ort::parallel(api, context, (size_t)tiles, [&](size_t tile) {
      float* memory = (float*)scratch(sizeof(float) * tile_size);
      transpose((int64_t)tile, 0, weight(0).slices, memory);
      for (size_t layer = 0; layer < layers_.size(); layer++)
        multiply(layer, (int64_t)tile, 0, weight(layer).parts, memory);
    });
    return;
  }
  // One or three are shared out stage by stage, in parts.
  float* shared = (float*)shared_scratch(sizeof(float) * tiles * tile_size);
  ort::parallel_tiles(api, context, tiles, weight(0).slices, [&](int64_t tile, int64_t first, int64_t end) {
    transpose(tile, first, end, shared + tile * tile_size);
  });
  for (size_t layer = 0; layer < layers_.size(); layer++)
    ort::parallel_tiles(api, context, tiles, weight(layer).parts, [&](int64_t tile, int64_t first, int64_t end) {
      multiply(layer, tile, first, end, shared + tile * tile_size);
    });
}
