// The operator FloatAttention: attention of all heads in fp32.
//
//   query, key, value (fp32 [batch, length, ..]), mask (fp32 [1 or batch, 1, 1 or length, length])
//   -> fp32 [batch, length, width]
#include "attention_inputs.h"
#include "cpu.h"
#include "operators.h"

using namespace ort;

namespace {

struct FloatAttentionOperator {
  static constexpr const char* kName = "FloatAttention";
  static constexpr int kInputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {kFloat};
  static constexpr size_t kOutputCount = 1;

  HeadLayout layout;
  float score_scale;

  explicit FloatAttentionOperator(const Node& node) : layout(node), score_scale(node.number("score_scale")) {}

  void compute(const void* api, KernelContext* context) const {
    AttentionInputs inputs(api, context, layout);
    FloatAttention a{};
    inputs.set<float>(a, layout);
    a.score_scale = score_scale;
    a.output = (float*)output(api, context, 0, {inputs.batch, inputs.length, a.heads * a.head_size});
    if (a.length == 0) return;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(inputs.batch * a.heads), [&](size_t index) {
      run.float_attention(a, (int64_t)index / a.heads, (int64_t)index % a.heads, scratch(float_attention_scratch(a)));
    });
  }
};

}  // namespace

CustomOp* make_float_attention(const void* api) { return new Operator<FloatAttentionOperator>(api); }
