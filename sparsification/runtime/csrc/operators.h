// The operators of the domain "sparsification", a source file for each kind. A returned operator is never released.
#pragma once

#include "ort_api.h"

ort::CustomOp* make_sparse_linear(const void* api);
ort::CustomOp* make_sparse_linear_quantized(const void* api);
ort::CustomOp* make_quantized_attention(const void* api);
ort::CustomOp* make_add_norm(const void* api);
ort::CustomOp* make_add_norm_quantize(const void* api);
ort::CustomOp* make_sparse_linear_float(const void* api);
ort::CustomOp* make_sparse_feed_forward_float(const void* api);
ort::CustomOp* make_float_attention(const void* api);
