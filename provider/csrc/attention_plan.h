// How a block of attention is computed: query, key and value as one layer, then the kernel for each head.
#pragma once

#include <cstring>

#include "block.h"
#include "cpu.h"
#include "float_layers.h"
#include "int8_linear.h"

struct Heads {
  int64_t batch, length, count, size;
};

// Added to the scores: [1 or batch, 1 or heads, 1 or length, length].
struct Mask {
  const float* data;
  int64_t batch_stride, head_stride, query_stride;
};

class AttentionPlan : public Plan {
 public:
  Integers head_shapes[3], output_shape;
  size_t mask;

  size_t read(const std::string& name) { return add_input(name); }
  void write(const std::string& name) { add_output(name); }

  void compute(const void* api, ort::KernelContext* context) const override {
    ort::Tensor x = input(api, context, 0);
    ort::check_shape(x);
    ort::check(!x.shape.empty() && x.shape.back() == inputs(), "the input is not as wide as the weight");
    std::vector<int64_t> flat = x.shape;
    flat.back() = outputs() / 3;
    std::vector<int64_t> shape = reshaped(flat, numbers(api, context, head_shapes[0]));
    ort::check(shape.size() == 4 && shape[2] * shape[3] == flat.back(), "query is not [batch, length, heads, size]");
    for (const Integers& other : head_shapes)
      ort::check(reshaped(flat, numbers(api, context, other)) == shape, "query, key and value have different shapes");
    ort::check(shape[1] <= kMaxKeys, "the sequence is longer than 32768");
    void* y = output(api, context, 0, reshaped(shape, numbers(api, context, output_shape)));
    if (!y || x.count() == 0) return;
    Heads heads{shape[0], shape[1], shape[2], shape[3]};
    thread_local std::vector<float> memory;
    run(api, context, x, heads, read_mask(input(api, context, mask), heads, memory), y);
  }

 protected:
  virtual int64_t inputs() const = 0;
  virtual int64_t outputs() const = 0;  // of query, key and value side by side
  virtual void run(const void* api, const ort::KernelContext* context, const ort::Tensor& x, const Heads& heads,
                   const Mask& mask, void* y) const = 0;

  // Fills in what the kernels for int8 and fp32 have alike; query, key and value side by side.
  template <typename Kind, typename T>
  static Kind filled(Kind a, const Heads& heads, const Mask& mask, const T* tensors, T* y) {
    int64_t width = heads.count * heads.size;
    a.query = tensors;
    a.key = tensors + width;
    a.value = tensors + 2 * width;
    a.query_stride = a.key_stride = a.value_stride = 3 * width;
    a.mask_batch_stride = mask.batch_stride;
    a.mask_query_stride = mask.query_stride;
    a.length = heads.length;
    a.heads = heads.count;
    a.head_size = heads.size;
    a.output = y;
    return a;
  }
  // Runs a kernel for each head, which may have a mask of its own.
  template <typename Kind, typename Kernel>
  static void each_head(const void* api, const ort::KernelContext* context, const Kind& all, const Heads& heads,
                        const Mask& mask, const Kernel& kernel) {
    ort::parallel(api, context, (size_t)(heads.batch * heads.count), [&](size_t index) {
      int64_t head = (int64_t)index % heads.count;
      Kind a = all;
      a.mask = mask.data + head * mask.head_stride;
      kernel(a, (int64_t)index / heads.count, head);
    });
  }

 private:
  static Mask read_mask(const ort::Tensor& added, const Heads& heads, std::vector<float>& memory) {
    ort::check(added.shape.size() <= 4, "the mask has more than four dimensions");
    std::vector<int64_t> shape(4 - added.shape.size(), 1);
    shape.insert(shape.end(), added.shape.begin(), added.shape.end());
    ort::check((shape[0] == 1 || shape[0] == heads.batch) && (shape[1] == 1 || shape[1] == heads.count) &&
              (shape[2] == 1 || shape[2] == heads.length),
          "the mask does not fit the scores");
    shape[3] = heads.length;
    const float* data = broadcast(added, shape, memory);
    int64_t length = shape[3], head = shape[2] * length;
    // Transformers computes a row for each query, although most masks only hide padding: one row for all is faster.
    bool is_same = true;
    for (const float* row = data; is_same && row < data + shape[0] * shape[1] * head; row += length)
      is_same = (row - data) % head == 0 || !std::memcmp(row, row - length, sizeof(float) * length);
    return {data, shape[0] == 1 ? 0 : shape[1] * head, shape[1] == 1 ? 0 : head, is_same ? 0 : length};
  }
  std::vector<int64_t> numbers(const void* api, const ort::KernelContext* context, const Integers& integers) const {
    if (integers.is_constant) return integers.values;
    ort::Tensor tensor = input(api, context, integers.input);
    ort::check(tensor.type == ort::kInt64, "a shape is not in int64");
    return tensor.values<int64_t>();
  }
};

struct Int8AttentionPlan : AttentionPlan {
  std::unique_ptr<Int8Linear> layer;
  Attention attention{};
  bool is_signed = false;  // the output

  int64_t inputs() const override { return layer->inputs(); }
  int64_t outputs() const override { return layer->outputs(); }
  void run(const void* api, const ort::KernelContext* context, const ort::Tensor& x, const Heads& heads,
           const Mask& mask, void* y) const override {
    thread_local std::vector<uint8_t> integers, memory;
    integers.resize((size_t)(heads.batch * heads.length * outputs()));
    layer->run(api, context, unsigned_integers(x, memory), heads.batch * heads.length, integers.data());
    Attention all = filled(attention, heads, mask, (const uint8_t*)integers.data(), (uint8_t*)y);
    all.key_flip = all.value_flip = 0x80;
    const Kernels& run = kernels();
    each_head(api, context, all, heads, mask, [&](const Attention& a, int64_t batch, int64_t head) {
      run.attention(a, batch, head, scratch(attention_scratch(a)));
    });
    int64_t width = heads.count * heads.size;
    if (is_signed) flip((const uint8_t*)y, (uint8_t*)y, heads.batch * heads.length * width);
  }
};

struct FloatAttentionPlan : AttentionPlan {
  FloatLayers layer{false};
  FloatAttention attention{};

  int64_t inputs() const override { return layer.inputs(); }
  int64_t outputs() const override { return layer.outputs(); }
  void run(const void* api, const ort::KernelContext* context, const ort::Tensor& x, const Heads& heads,
           const Mask& mask, void* y) const override {
    thread_local std::vector<float> tensors;
    tensors.resize((size_t)(heads.batch * heads.length * outputs()));
    layer.run(api, context, x.as<float>(), heads.batch * heads.length, tensors.data());
    FloatAttention all = filled(attention, heads, mask, (const float*)tensors.data(), (float*)y);
    const Kernels& run = kernels();
    each_head(api, context, all, heads, mask, [&](const FloatAttention& a, int64_t batch, int64_t head) {
      run.float_attention(a, batch, head, scratch(float_attention_scratch(a)));
    });
  }
};
