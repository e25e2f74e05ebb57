// Which parts of a graph the provider takes, and why not the others.
#pragma once

#include <string>
#include <vector>

#include "block.h"

struct Options {
  bool fuse = true;     // GELU, quantization, attention and LayerNormalization, too
  bool always = false;  // also layers that are not faster
  std::string report;   // file for a line of each layer; "" for none
};

// A Linear layer in the report.
struct LayerReport {
  std::string name, form, quantization;
  int64_t inputs, outputs;
  double zeros;
  std::string taken;    // "alone", "attention" or "feed-forward"; "" if it is not taken
  std::string reason;   // why not
  double dense, sparse; // estimated nanoseconds for a token; 0 if not known
  bool in_windows;
};

struct Claims {
  std::vector<Block> blocks;  // no node is in two of them
  std::vector<LayerReport> layers;
  int64_t taken() const;
};

Claims find_claims(const GraphView& graph, const Options& options);

// One line of JSON for each layer.
std::string to_json(const std::vector<LayerReport>& layers);
