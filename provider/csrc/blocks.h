// The blocks that the provider takes, by kind.
#pragma once

#include <optional>

#include "block.h"
#include "layer.h"

// One layer, or several that share the DequantizeLinear of their input, each with its tail if `fuse` is set.
// None if other nodes need what is between its nodes.
std::optional<Block> linear_block(const GraphView& graph, const std::vector<const Layer*>& layers, bool fuse);

// Two layers in a row, with what stands between them and after them, such as the feed-forward part of a Transformer.
std::optional<Block> feed_forward_block(const GraphView& graph, const Layer& first, const Layer& second);

// Attention from the layers of query, key and value to the next layer's integers.
struct AttentionMatch {
  Block block;
  std::vector<const Layer*> layers;
};
std::optional<AttentionMatch> attention_block(const GraphView& graph, const std::vector<Layer>& layers, int softmax);

// A residual sum and LayerNormalization, with quantization where it follows; `end` is the last node of the
// LayerNormalization.
std::optional<Block> norm_block(const GraphView& graph, int end);
