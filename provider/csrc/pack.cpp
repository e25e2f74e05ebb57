// Linear layers in the layouts of the kernels.
#include "layer.h"

namespace {

template <typename To, typename From>
void append(To& to, const From& from) {
  to.insert(to.end(), from.begin(), from.end());
}

SparseRows concatenated(const std::vector<const Layer*>& layers) {
  SparseRows rows{layers[0]->inputs, 0, 1, {0}, {}};
  for (const Layer* layer : layers) {
    int64_t entries = (int64_t)rows.positions.size();
    for (size_t row = 1; row < layer->rows.starts.size(); row++)
      rows.starts.push_back(entries + layer->rows.starts[row]);
    append(rows.positions, layer->rows.positions);
    rows.outputs += layer->outputs;
  }
  return rows;
}

}  // namespace

std::unique_ptr<Int8Linear> pack(const std::vector<const Layer*>& layers, const std::vector<QuantParams>& params,
                                 bool gelu) {
  std::vector<int8_t> values;
  LayerOutputs outputs{{}, {}, {}, gelu};
  LayerCost cost{};
  for (size_t i = 0; i < layers.size(); i++) {
    append(values, layers[i]->values);
    cost.blocks += layers[i]->cost.blocks;
    cost.windows += layers[i]->cost.windows;
    append(outputs.scale, layers[i]->scale);
    append(outputs.bias, layers[i]->bias);
    if (!params.empty()) outputs.output_params.resize(outputs.scale.size(), params[i]);
  }
  return std::make_unique<Int8Linear>(concatenated(layers), values.data(), cost, std::move(outputs),
                                      layers[0]->params.zero);
}

void pack(const std::vector<const Layer*>& layers, FloatLayers& to) {
  std::vector<float> values, bias;
  for (const Layer* layer : layers) {
    append(values, layer->float_values);
    append(bias, layer->bias);
  }
  to.add(concatenated(layers), values.data(), std::move(bias));
}
