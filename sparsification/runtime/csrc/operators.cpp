// What the library exports: the registration of its operators with ONNX Runtime, what a layer costs, and the choice of
// kernels for tests.
#include "cost.h"
#include "cpu.h"
#include "operators.h"
#include "ort_helpers.h"

namespace {

// Made once, for all sessions, and never released: a session may outlive any place that could do it.
ort::Domain* make_domain(const void* api) {
  kernels();  // an unknown SPARSIFICATION_CPU is an error here
  ort::Domain* domain;
  ort::call<ort::CreateCustomOpDomain>(api, "sparsification", &domain);
  for (auto make : {make_sparse_linear, make_sparse_linear_quantized, make_quantized_attention, make_add_norm_quantize,
                    make_sparse_linear_float, make_sparse_feed_forward_float, make_float_attention, make_add_norm})
    ort::call<ort::CustomOpDomain_Add>(api, domain, (const ort::CustomOp*)make(api));
  return domain;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// What SessionOptions.register_custom_ops_library looks for.
EXPORT ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const void* api = base->get_api(ort::kApiVersion);
  // Without an API there is no way to make an error; the nodes' domain will be unknown.
  if (!api) return nullptr;
  return ort::guarded(api, [&] {
    static ort::Domain* domain = make_domain(api);
    ort::call<ort::AddCustomOpDomain>(api, options, domain);
  });
}

// For tests: the kernels that run here, and a choice among them for sessions that are made then: weights are packed for
// the kernels that are selected.
EXPORT const char* sparsification_available_kernels() { return available_kernels(); }
EXPORT int sparsification_select_kernels(const char* name) { return select_kernels(name); }

// What an int8 layer costs: work, and nanoseconds of a token; weight: [outputs][inputs].
EXPORT void sparsification_layer_cost(int64_t inputs, int64_t outputs, const int8_t* weight, LayerWork* work,
                                      LayerCost* cost) {
  std::vector<int8_t> values;
  SparseRows rows = find_rows(inputs, outputs, weight, values);
  *work = layer_work(rows, values.data());
  *cost = layer_cost(rows, *work);
}
