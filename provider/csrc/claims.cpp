#include "claims.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <stdexcept>

#include "blocks.h"

namespace {

class Finder {
 public:
  Finder(const GraphView& graph, const Options& options)
      : graph_(graph), options_(options), layers_(find_layers(graph, options.always)) {}

  Claims run() {
    if (options_.fuse) {
      each_node("Softmax", [&](int node) { take_attention(node); });
      take_feed_forwards();
    }
    take_layers();
    // Where no layer is taken, the graph stays as it is.
    if (options_.fuse && !taken_.empty())
      for (const char* type : {"LayerNormalization", "Add"})
        each_node(type, [&](int node) { take(norm_block(graph_, node), {}, ""); });
    for (const Layer& layer : layers_) report(layer);
    return std::move(claims_);
  }

 private:
  template <typename Work>
  void each_node(const char* type, const Work& work) {
    for (int node = 0; node < (int)graph_.nodes().size(); node++)
      if (graph_.node(node).type == type) work(node);
  }
  bool pays(const Layer& layer) const { return layer.can_be_taken() && (options_.always || layer.pays()); }
  bool is_free(const Layer& layer) const { return !taken_.count(&layer); }

  bool take(std::optional<Block> block, const std::vector<const Layer*>& layers, const char* how) {
    if (!block) return false;
    for (int node : block->nodes)
      if (taken_nodes_.count(node)) return false;
    taken_nodes_.insert(block->nodes.begin(), block->nodes.end());
    for (const Layer* layer : layers) {
      taken_[layer] = how;
      layers_[layer - layers_.data()].forget_weight();  // it is packed: not all weights are there twice
    }
    claims_.blocks.push_back(std::move(*block));
    return true;
  }

  // What make() returns; nothing if a weight cannot be packed.
  template <typename Make>
  static auto attempt(const Make& make) -> decltype(make()) {
    try {
      return make();
    } catch (const std::invalid_argument&) {
      return {};
    }
  }

  void take_attention(int softmax) {
    auto found = attempt([&] { return attention_block(graph_, layers_, softmax); });
    if (!found) return;
    double dense = 0, sparse = 0;
    for (const Layer* layer : found->layers) {
      dense += layer->cost.dense;
      sparse += layer->sparse_cost();
    }
    if (sparse < dense || options_.always) take(std::move(found->block), found->layers, "attention");
  }

  void take_feed_forwards() {
    for (const Layer& first : layers_)
      for (const Layer& second : layers_)
        if (pays(first) && pays(second) && is_free(first) && is_free(second) &&
            graph_.producer(second.input) != kNone && &first != &second)
          take(attempt([&] { return feed_forward_block(graph_, first, second); }), {&first, &second}, "feed-forward");
  }

  void take_layers() {
    // Those that share the DequantizeLinear of their input can only be taken together.
    std::map<int, std::vector<const Layer*>> groups;
    for (const Layer& layer : layers_)
      if (pays(layer) && is_free(layer))
        groups[layer.dequantize == kNone ? *layer.nodes.begin() : layer.dequantize].push_back(&layer);
    for (const auto& [node, group] : groups)
      for (bool fuse : {options_.fuse, false})
        if (is_free(*group[0])) take(attempt([&] { return linear_block(graph_, group, fuse); }), group, "alone");
  }

  void report(const Layer& layer) {
    LayerReport line{layer.name, layer.form, layer.quantization, layer.inputs, layer.outputs, layer.zeros,
                     "", layer.refusal, 0, 0, false};
    if (layer.can_be_taken()) {
      line.dense = layer.cost.dense;
      line.sparse = layer.sparse_cost();
      line.in_windows = layer.cost.windows < layer.cost.blocks;
      if (!is_free(layer)) line.taken = taken_.at(&layer);
      else if (!pays(layer)) line.reason = "the dense product is faster";
      else line.reason = "other nodes read what is between its nodes";
    }
    claims_.layers.push_back(std::move(line));
  }

  const GraphView& graph_;
  const Options& options_;
  std::vector<Layer> layers_;
  std::map<const Layer*, std::string> taken_;
  std::set<int> taken_nodes_;
  Claims claims_;
};

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (unsigned char letter : text) {
    char code[8];
    std::snprintf(code, sizeof code, letter < 0x20 || letter == '"' || letter == '\\' ? "\\u%04x" : "%c", letter);
    result += code;
  }
  return result + "\"";
}

}  // namespace

int64_t Claims::taken() const {
  return std::count_if(layers.begin(), layers.end(), [](const LayerReport& layer) { return !layer.taken.empty(); });
}

Claims find_claims(const GraphView& graph, const Options& options) { return Finder(graph, options).run(); }

std::string to_json(const std::vector<LayerReport>& layers) {
  std::string lines;
  for (const LayerReport& layer : layers) {
    char numbers[256];
    std::snprintf(numbers, sizeof numbers,
                  ", \"inputs\": %lld, \"outputs\": %lld, \"zeros\": %.6f, \"dense_ns\": %.3f, \"sparse_ns\": %.3f, "
                  "\"windows\": %s}\n",
                  (long long)layer.inputs, (long long)layer.outputs, layer.zeros, layer.dense, layer.sparse,
                  layer.in_windows ? "true" : "false");
    lines += "{\"name\": " + quoted(layer.name) + ", \"form\": " + quoted(layer.form) +
             ", \"quantization\": " + quoted(layer.quantization) + ", \"taken\": " + quoted(layer.taken) +
             ", \"reason\": " + quoted(layer.reason) + numbers;
  }
  return lines;
}
