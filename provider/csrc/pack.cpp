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

// The weights of layers as those of one: copied if there are several.
template <typename T>
class Weights {
 public:
  Weights(const std::vector<const Layer*>& layers, std::vector<T> Layer::*values)
      : is_one_(layers.size() == 1), first_(*layers[0]), member_(values) {
    if (is_one_) return;
    rows_ = concatenated(layers);
    for (const Layer* layer : layers) append(values_, layer->*values);
  }
  const SparseRows& rows() const { return is_one_ ? first_.rows : rows_; }
  const T* values() const { return (is_one_ ? first_.*member_ : values_).data(); }

 private:
  bool is_one_;
  const Layer& first_;
  std::vector<T> Layer::*member_;
  SparseRows rows_;
  std::vector<T> values_;
};

}  // namespace

std::unique_ptr<Int8Linear> pack(const std::vector<const Layer*>& layers, const std::vector<QuantParams>& params,
                                 bool gelu) {
  LayerOutputs outputs{{}, {}, {}, gelu};
  LayerCost cost{};
  for (size_t i = 0; i < layers.size(); i++) {
    cost.blocks += layers[i]->cost.blocks;
    cost.windows += layers[i]->cost.windows;
    append(outputs.scale, layers[i]->scale);
    append(outputs.bias, layers[i]->bias);
    if (!params.empty()) outputs.output_params.resize(outputs.scale.size(), params[i]);
  }
  Weights<int8_t> weights(layers, &Layer::values);
  return std::make_unique<Int8Linear>(weights.rows(), weights.values(), cost, std::move(outputs),
                                      layers[0]->params.stored_zero());
}

void pack(const std::vector<const Layer*>& layers, FloatLayers& to) {
  std::vector<float> bias;
  for (const Layer* layer : layers) append(bias, layer->bias);
  Weights<float> weights(layers, &Layer::float_values);
  to.add(weights.rows(), weights.values(), std::move(bias));
}
