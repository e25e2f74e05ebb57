// Attributes and inputs that the attention operators share, checked.
#pragma once

#include <vector>

#include "ort_helpers.h"

namespace ort {

// Heads and where query, key and value begin in a row of their tensors.
struct HeadLayout {
  int64_t heads, head_size, offsets[3];

  explicit HeadLayout(const Node& node) {
    heads = node.integer("heads", 1, 65536);
    head_size = node.integer("head_size", 1, 4096);
    const char* names[] = {"query_offset", "key_offset", "value_offset"};
    for (int i = 0; i < 3; i++) offsets[i] = node.integer(names[i], 0, int64_t{1} << 30);
  }
};

struct AttentionInputs {
  Tensor tensors[3];  // query, key, value [batch, length, ..]
  Tensor mask;        // [1 or batch, 1, 1 or length, length]
  int64_t batch, length, mask_batch_stride, mask_query_stride;

  AttentionInputs(const void* api, const KernelContext* context, const HeadLayout& layout)
      : tensors{input(api, context, 0), input(api, context, 1), input(api, context, 2)}, mask(input(api, context, 3)) {
    for (int i = 0; i < 3; i++) {
      const Tensor& tensor = tensors[i];
      check_shape(tensor);
      check(tensor.shape.size() == 3 && tensor.shape[2] >= layout.offsets[i] + layout.heads * layout.head_size,
            "query, key or value is no [batch, length, width] or too narrow");
      check(tensor.shape[0] == tensors[0].shape[0] && tensor.shape[1] == tensors[0].shape[1],
            "query, key and value differ in batch or length");
    }
    batch = tensors[0].shape[0];
    length = tensors[0].shape[1];
    check(length <= kMaxKeys, "the sequence is longer than 32768");
    const std::vector<int64_t>& m = mask.shape;
    check(m.size() == 4 && (m[0] == 1 || m[0] == batch) && m[1] == 1 && (m[2] == 1 || m[2] == length) && m[3] == length,
          "the mask is no [1 or batch, 1, 1 or length, length]");
    mask_query_stride = m[2] == 1 ? 0 : m[3];
    mask_batch_stride = m[0] == 1 ? 0 : m[2] * m[3];
  }

  // Inputs and their layout, into the kernel's structure.
  template <typename T, typename Kernel>
  void set(Kernel& a, const HeadLayout& layout) const {
    a.heads = layout.heads;
    a.head_size = layout.head_size;
    a.length = length;
    a.mask = mask.as<float>();
    a.mask_batch_stride = mask_batch_stride;
    a.mask_query_stride = mask_query_stride;
    a.query = tensors[0].as<T>() + layout.offsets[0];
    a.key = tensors[1].as<T>() + layout.offsets[1];
    a.value = tensors[2].as<T>() + layout.offsets[2];
    a.query_stride = tensors[0].shape[2];
    a.key_stride = tensors[1].shape[2];
    a.value_stride = tensors[2].shape[2];
  }
};

}  // namespace ort
