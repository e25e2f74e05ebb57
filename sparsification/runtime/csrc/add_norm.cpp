// The operators AddNorm and AddNormQuantize: a residual sum and LayerNormalization over the last dimension.
//
//   AddNorm         a, b (fp32 [.., size]), gamma, beta (constants [size]) -> fp32 of the shape of the larger term
//   AddNormQuantize the same                                               -> fp32, and the same quantized, uint8
#include <algorithm>
#include <utility>
#include <vector>

#include "cpu.h"
#include "operators.h"
#include "ort_helpers.h"

using namespace ort;

namespace {

template <bool quantized>
struct AddNormOperator {
  static constexpr const char* kName = quantized ? "AddNormQuantize" : "AddNorm";
  static constexpr int kInputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {kFloat, kUint8};
  static constexpr size_t kOutputCount = quantized ? 2 : 1;
  static constexpr int64_t kRows = 16;  // that one thread takes at once

  AddNorm norm{};
  std::vector<float> gamma, beta;

  explicit AddNormOperator(const Node& node) {
    Tensor weight = node.constant(2, kFloat, "gamma"), bias = node.constant(3, kFloat, "beta");
    norm.size = weight.count();
    check(norm.size > 0 && bias.count() == norm.size, "gamma and beta differ in size");
    gamma.assign(weight.as<float>(), weight.as<float>() + norm.size);
    beta.assign(bias.as<float>(), bias.as<float>() + norm.size);
    norm.gamma = gamma.data();
    norm.beta = beta.data();
    norm.epsilon = node.number("epsilon");
    if (quantized) norm.output_params = node.quant_params("");
  }

  void compute(const void* api, KernelContext* context) const {
    AddNorm now = norm;
    Tensor a = input(api, context, 0), b = input(api, context, 1);
    if (a.count() < b.count()) std::swap(a, b);
    check_shape(a);
    check(!a.shape.empty() && a.shape.back() == norm.size, "the terms are not as wide as gamma");
    // A batch may share one term: [1, length, size].
    auto own = std::find_if(b.shape.begin(), b.shape.end(), [](int64_t dimension) { return dimension != 1; });
    size_t rank = (size_t)(b.shape.end() - own);
    check(rank <= a.shape.size() && std::equal(own, b.shape.end(), a.shape.end() - rank) && b.count() >= norm.size &&
              b.count() % norm.size == 0,
          "the terms' shapes do not fit");
    now.b_rows = b.count() / norm.size;
    now.a = a.as<float>();
    now.b = b.as<float>();
    now.output = (float*)output(api, context, 0, a.shape);
    if (quantized) now.integers = (uint8_t*)output(api, context, 1, a.shape);
    int64_t rows = a.count() / norm.size;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)((rows + kRows - 1) / kRows), [&](size_t index) {
      int64_t first = (int64_t)index * kRows;
      run.add_norm(now, first, std::min(first + kRows, rows));
    });
  }
};

}  // namespace

CustomOp* make_add_norm(const void* api) { return new Operator<AddNormOperator<false>>(api); }
CustomOp* make_add_norm_quantize(const void* api) { return new Operator<AddNormOperator<true>>(api); }
