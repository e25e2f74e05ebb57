// Linear layers as blocks: alone, several of one input, and two in a row.
#include <algorithm>
#include <numeric>

#include "blocks.h"
#include "layer_weight.h"

using namespace ort;

namespace {

// The input's shape with another width, and how many tokens it has.
int64_t tokens_of(const Tensor& x, int64_t inputs) {
  check_shape(x);
  check(!x.shape.empty() && x.shape.back() == inputs, "the input is not as wide as the weight");
  return x.count() / inputs;
}

std::vector<int64_t> with_width(std::vector<int64_t> shape, int64_t width) {
  shape.back() = width;
  return shape;
}

// A layer, or two in a row in fp32, as one of a LinearPlan's products.
struct Product {
  virtual ~Product() = default;
  virtual int64_t inputs() const = 0;
  virtual int64_t outputs() const = 0;
  // x: [tokens][inputs], fp32 or uint8; params: of a dynamically quantized input, else null.
  virtual void run(const void* api, const KernelContext* context, const void* x, int64_t tokens, void* y,
                   const RunParams* params) const = 0;
};
struct Int8Product : Product {
  std::unique_ptr<Int8Linear> layer;
  bool is_signed;  // the output

  Int8Product(std::unique_ptr<Int8Linear> given, bool is_signed) : layer(std::move(given)), is_signed(is_signed) {}
  int64_t inputs() const override { return layer->inputs(); }
  int64_t outputs() const override { return layer->outputs(); }
  void run(const void* api, const KernelContext* context, const void* x, int64_t tokens, void* y,
           const RunParams* params) const override {
    layer->run(api, context, (const uint8_t*)x, tokens, y, params);
    if (is_signed) flip((const uint8_t*)y, (uint8_t*)y, tokens * outputs());
  }
};
struct FloatProduct : Product {
  FloatLayers layers;
  explicit FloatProduct(bool gelu) : layers(gelu) {}
  int64_t inputs() const override { return layers.inputs(); }
  int64_t outputs() const override { return layers.outputs(); }
  void run(const void* api, const KernelContext* context, const void* x, int64_t tokens, void* y,
           const RunParams*) const override {
    layers.run(api, context, (const float*)x, tokens, (float*)y);
  }
};

class LinearPlan : public Plan {
 public:
  explicit LinearPlan(const std::string& input_name) { add_input(input_name); }
  // shape: of the output; empty: that of the input with another width.
  void add(std::unique_ptr<Product> product, const std::string& output_name, const std::vector<int64_t>& shape) {
    products_.push_back(std::move(product));
    shapes_.push_back(shape);
    add_output(output_name);
  }
  // What is multiplied by in each run; tensors of the layers' dynamic quantization.
  void add_params(const std::string& zero, const std::string& scale) {
    zero_ = add_input(zero);
    scale_ = add_input(scale);
  }
  void compute(const void* api, KernelContext* context) const override {
    Tensor x = input(api, context, 0);
    check_shape(x);
    thread_local std::vector<uint8_t> memory;
    const void* data = unsigned_integers(x, memory);
    for (size_t i = 0; i < products_.size(); i++) {
      const Product& product = *products_[i];
      std::vector<int64_t> shape = shapes_[i];
      int64_t tokens = shape.empty() ? tokens_of(x, product.inputs()) : x.count() / product.inputs();
      if (shape.empty()) shape = with_width(x.shape, product.outputs());
      check(tokens * product.inputs() == x.count() && tokens * product.outputs() == count(shape),
            "a Reshape does not fit the tensor");
      void* y = output(api, context, i, shape);
      if (!y) continue;
      if (!zero_) {
        product.run(api, context, data, tokens, y, nullptr);
        continue;
      }
      Tensor zero = input(api, context, zero_), scale = input(api, context, scale_);
      RunParams params{zero.as<uint8_t>()[0], scale.as<float>(), scale.count() == 1};
      product.run(api, context, data, tokens, y, &params);
    }
  }

 private:
  std::vector<std::unique_ptr<Product>> products_;
  std::vector<std::vector<int64_t>> shapes_;
  size_t zero_ = 0, scale_ = 0;  // inputs; 0: the parameters are constant
};

class FeedForwardPlan : public Plan {
 public:
  FeedForwardPlan(const std::string& input_name, std::unique_ptr<Int8Linear> first, Int8Product second,
                  const std::string& output_name)
      : first_(std::move(first)), second_(std::move(second)) {
    add_input(input_name);
    add_output(output_name);
  }
  void compute(const void* api, KernelContext* context) const override {
    Tensor x = input(api, context, 0);
    int64_t tokens = tokens_of(x, first_->inputs());
    void* y = output(api, context, 0, with_width(x.shape, second_.outputs()));
    thread_local std::vector<uint8_t> between, memory;
    between.resize((size_t)(tokens * first_->outputs()));
    uint8_t* integers = between.data();  // the session's other threads have a vector of their own
    first_->run(api, context, unsigned_integers(x, memory), tokens, integers);
    second_.run(api, context, integers, tokens, y, nullptr);
  }

 private:
  std::unique_ptr<Int8Linear> first_;
  Int8Product second_;
};

std::vector<QuantParams> params_of(const Tail& tail) {
  return tail.quantization ? std::vector<QuantParams>{tail.quantization->stored_params()} : std::vector<QuantParams>{};
}

Int8Product int8_product(const Layer& layer, const Tail& tail) {
  return {pack({&layer}, params_of(tail), tail.gelu), tail.quantization && tail.quantization->is_signed};
}

std::unique_ptr<Product> product_of(const Layer& layer, const Tail& tail) {
  if (!layer.is_float()) return std::make_unique<Int8Product>(int8_product(layer, tail));
  auto product = std::make_unique<FloatProduct>(tail.gelu);
  pack({&layer}, product->layers);
  return product;
}

// Sorts the outputs of a layer by their number of weights, and the inputs of the layer that reads it alike. The kernel
// of windows works on 16 outputs at a time, and the fullest decides how long it takes.
void sort_between(Layer& first, Layer& second) {
  const std::vector<int64_t>& starts = first.rows.starts;
  std::vector<int64_t> order((size_t)first.outputs), place(order.size());
  std::iota(order.begin(), order.end(), 0);
  auto count = [&](int64_t row) { return starts[row + 1] - starts[row]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return count(a) > count(b); });
  for (size_t i = 0; i < order.size(); i++) place[order[i]] = (int64_t)i;
  SparseRows rows{first.inputs, first.outputs, 1, {0}, {}};
  std::vector<int8_t> values;
  std::vector<float> scale, bias;
  rows.positions.reserve(first.rows.positions.size());
  values.reserve(first.values.size());
  for (int64_t row : order) {
    auto append = [&](auto& to, const auto& from) {
      to.insert(to.end(), from.begin() + starts[row], from.begin() + starts[row + 1]);
    };
    append(rows.positions, first.rows.positions);
    append(values, first.values);
    rows.starts.push_back((int64_t)values.size());
    scale.push_back(first.scale[row]);
    bias.push_back(first.bias[row]);
  }
  first.rows = std::move(rows);
  first.values = std::move(values);
  first.scale = std::move(scale);
  first.bias = std::move(bias);
  // Each row of the second is spread out by the new inputs, and read in their order.
  std::vector<int8_t> dense((size_t)second.inputs, 0);
  for (int64_t row = 0; row < second.outputs; row++) {
    int64_t begin = second.rows.starts[row], end = second.rows.starts[row + 1], at = begin;
    for (int64_t entry = begin; entry < end; entry++) dense[place[second.rows.positions[entry]]] = second.values[entry];
    each_nonzero(dense.data(), second.inputs, [&](int64_t input) {
      second.rows.positions[at] = (uint16_t)input;
      second.values[at++] = dense[input];
      dense[input] = 0;
    });
  }
}

bool can_be_sorted(const Layer& layer) { return layer.cost.windows < layer.cost.blocks && !layer.is_split; }

}  // namespace

std::optional<Block> linear_block(const GraphView& graph, const std::vector<const Layer*>& layers, bool fuse) {
  Block block;
  std::vector<int> outputs;
  std::vector<int> inputs{layers[0]->input};
  auto plan = std::make_unique<LinearPlan>(graph.name(inputs[0]));
  if (layers[0]->is_dynamic()) {  // alone
    int zero = layers[0]->dynamic_zero, scale = layers[0]->dynamic_scale;
    inputs.insert(inputs.end(), {zero, scale});
    plan->add_params(graph.name(zero), graph.name(scale));
  }
  for (const Layer* layer : layers) {
    Tail tail = fuse ? find_tail(graph, *layer) : no_tail(*layer);
    block.nodes.insert(layer->nodes.begin(), layer->nodes.end());
    block.nodes.insert(tail.nodes.begin(), tail.nodes.end());
    outputs.push_back(tail.output);
    plan->add(product_of(*layer, tail), graph.name(tail.output), layer->output_shape);
  }
  if (!graph.is_block(block.nodes, inputs, outputs)) return {};
  block.plan = std::move(plan);
  return block;
}

std::optional<Block> feed_forward_block(const GraphView& graph, const Layer& first, const Layer& second) {
  if (first.is_dynamic() || second.is_dynamic()) return {};
  Tail between = find_tail(graph, first), after = find_tail(graph, second);
  if (between.output != second.input || first.is_float() != second.is_float()) return {};
  if (first.is_float() ? after.gelu : !between.quantization.has_value()) return {};
  Block block;
  for (const std::set<int>& nodes : {first.nodes, between.nodes, second.nodes, after.nodes})
    block.nodes.insert(nodes.begin(), nodes.end());
  if (!graph.is_block(block.nodes, {first.input}, {after.output})) return {};
  if (first.is_float()) {
    auto product = std::make_unique<FloatProduct>(between.gelu);
    pack({&first}, product->layers);
    pack({&second}, product->layers);
    auto plan = std::make_unique<LinearPlan>(graph.name(first.input));
    plan->add(std::move(product), graph.name(after.output), second.output_shape);
    block.plan = std::move(plan);
    return block;
  }
  Layer sorted_first = first, sorted_second = second;
  if (can_be_sorted(first) && can_be_sorted(second)) sort_between(sorted_first, sorted_second);
  block.plan = std::make_unique<FeedForwardPlan>(
      graph.name(first.input), pack({&sorted_first}, params_of(between), between.gelu),
      int8_product(sorted_second, after), graph.name(after.output));
  return block;
}
