// The operator QuantizedAttention: attention of all heads on integers.
//
//   query, key, value (int8 or uint8 [batch, length, ..]), mask (fp32 [1 or batch, 1, 1 or length, length])
//   -> uint8 [batch, length, width]
#include <string>
#include <vector>

#include "cpu.h"
#include "operators.h"
#include "ort_helpers.h"

using namespace ort;

namespace {

struct QuantizedAttention {
  static constexpr const char* kName = "QuantizedAttention";
  static constexpr int kInputs[] = {kAnyType, kAnyType, kAnyType, kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {kUint8};
  static constexpr size_t kOutputCount = 1;

  Attention attention{};
  int64_t offsets[3];

  explicit QuantizedAttention(const Node& node) {
    Attention& a = attention;
    a.heads = node.integer("heads", 1, 65536);
    a.head_size = node.integer("head_size", 1, 4096);
    const char* names[] = {"query_offset", "key_offset", "value_offset"};
    for (int i = 0; i < 3; i++) offsets[i] = node.integer(names[i], 0, int64_t{1} << 30);
    a.query_zero = (int)node.integer("query_zero_point", 0, 255);
    a.key_zero = (int)node.integer("key_zero_point", -128, 127);
    a.value_zero = (int)node.integer("value_zero_point", -128, 127);
    a.score_scale = node.number("score_scale");
    a.context_scale = node.number("context_scale");
    a.probability_params = node.quant_params("probability_");
    a.output_params = node.quant_params("output_");
  }

  void compute(const void* api, KernelContext* context) const {
    Attention a = attention;
    int64_t width = a.heads * a.head_size;
    Tensor tensors[] = {input(api, context, 0), input(api, context, 1), input(api, context, 2)};
    for (int i = 0; i < 3; i++) {
      const Tensor& tensor = tensors[i];
      check_shape(tensor);
      check(tensor.type == kUint8 || (i > 0 && tensor.type == kInt8),
            "query has to be uint8, key and value int8 or uint8");
      check(tensor.shape.size() == 3 && tensor.shape[2] >= offsets[i] + width,
            "query, key or value is no [batch, length, width] or too narrow");
      check(tensor.shape[0] == tensors[0].shape[0] && tensor.shape[1] == tensors[0].shape[1],
            "query, key and value differ in batch or length");
    }
    int64_t batch = tensors[0].shape[0];
    a.length = tensors[0].shape[1];
    check(a.length <= kMaxKeys, "the sequence is longer than 32768");
    Tensor mask = input(api, context, 3);
    const std::vector<int64_t>& m = mask.shape;
    check(m.size() == 4 && (m[0] == 1 || m[0] == batch) && m[1] == 1 && (m[2] == 1 || m[2] == a.length) &&
              m[3] == a.length,
          "the mask is no [1 or batch, 1, 1 or length, length]");
    a.mask = mask.as<float>();
    a.mask_query_stride = m[2] == 1 ? 0 : m[3];
    a.mask_batch_stride = m[0] == 1 ? 0 : m[2] * m[3];
    a.query = tensors[0].as<uint8_t>() + offsets[0];
    a.key = tensors[1].as<uint8_t>() + offsets[1];
    a.value = tensors[2].as<uint8_t>() + offsets[2];
    a.query_stride = tensors[0].shape[2];
    a.key_stride = tensors[1].shape[2];
    a.value_stride = tensors[2].shape[2];
    a.key_flip = tensors[1].type == kUint8 ? 0x80 : 0;
    a.value_flip = tensors[2].type == kUint8 ? 0x80 : 0;
    a.output = (uint8_t*)output(api, context, 0, {batch, a.length, width});
    if (a.length == 0) return;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(batch * a.heads), [&](size_t index) {
      run.attention(a, (int64_t)index / a.heads, (int64_t)index % a.heads, scratch(attention_scratch(a)));
    });
  }
};

}  // namespace

CustomOp* make_quantized_attention(const void* api) { return new Operator<QuantizedAttention>(api); }
