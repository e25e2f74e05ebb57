// The operator QuantizedAttention: attention of all heads on integers.
//
//   query, key, value (int8 or uint8 [batch, length, ..]), mask (fp32 [1 or batch, 1, 1 or length, length])
//   -> uint8 [batch, length, width]
#include "attention_inputs.h"
#include "cpu.h"
#include "operators.h"

using namespace ort;

namespace {

struct QuantizedAttention {
  static constexpr const char* kName = "QuantizedAttention";
  static constexpr int kInputs[] = {kAnyType, kAnyType, kAnyType, kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {kUint8};
  static constexpr size_t kOutputCount = 1;

  HeadLayout layout;
  Attention attention{};

  explicit QuantizedAttention(const Node& node) : layout(node) {
    Attention& a = attention;
    a.query_zero = (int)node.integer("query_zero_point", 0, 255);
    a.key_zero = (int)node.integer("key_zero_point", -128, 127);
    a.value_zero = (int)node.integer("value_zero_point", -128, 127);
    a.score_scale = node.number("score_scale");
    a.context_scale = node.number("context_scale");
    a.probability_params = node.quant_params("probability_");
    a.output_params = node.quant_params("output_");
  }

  void compute(const void* api, KernelContext* context) const {
    AttentionInputs inputs(api, context, layout);
    const Tensor* tensors = inputs.tensors;
    for (int i = 0; i < 3; i++)
      check(tensors[i].type == kUint8 || (i > 0 && tensors[i].type == kInt8),
            "query has to be uint8, key and value int8 or uint8");
    Attention a = attention;
    inputs.set<uint8_t>(a, layout);
    a.key_flip = tensors[1].type == kUint8 ? 0x80 : 0;
    a.value_flip = tensors[2].type == kUint8 ? 0x80 : 0;
    a.output = (uint8_t*)output(api, context, 0, {inputs.batch, a.length, a.heads * a.head_size});
    if (a.length == 0) return;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(inputs.batch * a.heads), [&](size_t index) {
      run.attention(a, (int64_t)index / a.heads, (int64_t)index % a.heads, scratch(attention_scratch(a)));
    });
  }
};

}  // namespace

CustomOp* make_quantized_attention(const void* api) { return new Operator<QuantizedAttention>(api); }
