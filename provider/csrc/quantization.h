// Scale and zero point of a tensor of integers.
#pragma once

#include <optional>

#include "graph.h"

// Of a whole tensor.
struct Quantization {
  float scale;
  int zero;
  bool is_signed;  // int8, else uint8

  bool operator==(const Quantization& other) const { return scale == other.scale && same_integers(other); }
  bool same_integers(const Quantization& other) const { return zero == other.zero && is_signed == other.is_signed; }
  // Signed integers are stored as uint8, shifted by 128.
  int stored_zero() const { return zero + 128 * is_signed; }
  QuantParams stored_params() const { return make_quant_params(scale, stored_zero()); }
};

// None if parameters are not constant, of another type, out of range or different along an axis.
std::optional<Quantization> quantization(const GraphView& graph, int scale, int zero);
// The same of a QuantizeLinear or DequantizeLinear.
std::optional<Quantization> quantization(const GraphView& graph, int node);
