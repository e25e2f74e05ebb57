// The kernels as operators of ONNX Runtime: what a node's inputs and attributes mean, and that they are checked.
//
// A model's file can hold anything. Weights are constants, checked and packed once, when a session creates its kernels;
// the shapes of activations are checked in each run. Work goes to the session's own threads.
//
//   SparseLinear          x (uint8 [.., inputs]), counts, indices, values, scale, bias -> fp32 [.., outputs]
//   SparseLinearQuantized the same, output_scale, output_zero_point                    -> uint8 [.., outputs]
//   QuantizedAttention    query, key, value (int8 or uint8 [batch, length, ..]), mask  -> uint8 [batch, length, width]
//   AddNormQuantize       a, b (fp32 [.., size]), gamma, beta                          -> fp32, uint8 of the same shape
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ort_api.h"
#include "weight.h"

namespace {

using ort::KernelContext;
using ort::KernelInfo;
using ort::Status;

void check(bool right, const std::string& what) {
  if (!right) throw std::invalid_argument(what);
}

// ONNX Runtime's functions, their errors as exceptions.

struct StatusError {
  Status* status;
};

template <typename Function, typename... Arguments>
void call(const void* api, Arguments... arguments) {
  if (Status* status = Function::call(api, arguments...)) throw StatusError{status};
}

// Exceptions must not leave the library: gives the error as ONNX Runtime's, or null.
template <typename Work>
Status* guarded(const void* api, const Work& work) {
  try {
    work();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return ort::CreateStatus::call(api, ort::kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return ort::CreateStatus::call(api, ort::kFail, error.what());
  }
}

struct Tensor {
  const void* data;
  int type;
  std::vector<int64_t> shape;

  Tensor(const void* api, const ort::Value* value) {
    void* memory;
    call<ort::GetTensorMutableData>(api, const_cast<ort::Value*>(value), &memory);
    data = memory;
    ort::TensorInfo* raw;
    call<ort::GetTensorTypeAndShape>(api, value, &raw);
    auto release = [api](ort::TensorInfo* info) { ort::ReleaseTensorTypeAndShapeInfo::call(api, info); };
    std::unique_ptr<ort::TensorInfo, decltype(release)> info(raw, release);
    call<ort::GetTensorElementType>(api, info.get(), &type);
    size_t rank;
    call<ort::GetDimensionsCount>(api, info.get(), &rank);
    shape.resize(rank);
    call<ort::GetDimensions>(api, info.get(), shape.data(), rank);
  }

  int64_t count() const {
    int64_t product = 1;
    for (int64_t dimension : shape) product *= dimension;
    return product;
  }
  template <typename T>
  const T* as() const {
    return (const T*)data;
  }
};

Tensor input(const void* api, const KernelContext* context, size_t index) {
  const ort::Value* value;
  call<ort::KernelContext_GetInput>(api, context, index, &value);
  return Tensor(api, value);
}

void* output(const void* api, KernelContext* context, size_t index, const std::vector<int64_t>& shape) {
  ort::Value* value;
  void* memory;
  call<ort::KernelContext_GetOutput>(api, context, index, shape.data(), shape.size(), &value);
  call<ort::GetTensorMutableData>(api, value, &memory);
  return memory;
}

// Runs work(0) .. work(count - 1) on the session's threads.
template <typename Work>
void parallel(const void* api, const KernelContext* context, size_t count, const Work& work) {
  struct Shared {
    const Work& work;
    std::atomic<bool> failed;
  } shared{work, {false}};
  auto one = [](void* data, size_t index) {
    Shared& shared = *(Shared*)data;
    try {
      shared.work(index);
    } catch (...) {
      shared.failed = true;
    }
  };
  if (count == 1) {
    one(&shared, 0);
  } else if (count > 1) {
    call<ort::KernelContext_ParallelFor>(api, context, (void (*)(void*, size_t))one, count, (size_t)0, (void*)&shared);
  }
  if (shared.failed) throw std::bad_alloc();
}

// A node at the time when its kernel is created.
struct Node {
  const void* api;
  const KernelInfo* info;

  Tensor constant(size_t index, int type, const char* name) const {
    int is_constant = 0;
    const ort::Value* value = nullptr;
    call<ort::KernelInfoGetConstantInput_tensor>(api, info, index, &is_constant, &value);
    check(is_constant && value, std::string(name) + " is no constant");
    Tensor tensor(api, value);
    check(tensor.type == type, std::string(name) + " has another type than it should");
    return tensor;
  }
  int64_t integer(const char* name, int64_t least, int64_t most) const {
    int64_t value;
    call<ort::KernelInfoGetAttribute_int64>(api, info, name, &value);
    check(value >= least && value <= most, std::string(name) + " is out of range");
    return value;
  }
  float number(const char* name) const {
    float value;
    call<ort::KernelInfoGetAttribute_float>(api, info, name, &value);
    check(std::isfinite(value), std::string(name) + " is not finite");
    return value;
  }
  QuantParams grid(const std::string& prefix) const {
    std::string name = prefix + "scale";
    float scale = number(name.c_str());
    check_scale(scale, name.c_str());
    return make_quant_params(scale, (int)integer((prefix + "zero_point").c_str(), 0, 255));
  }
  static void check_scale(float value, const char* name) {
    // Its reciprocal and 255 times it have to be numbers, too.
    check(value > 1e-37f && value < 1e35f, std::string(name) + " is no positive number, or too small or large");
  }
};

std::vector<float> padded(const Tensor& tensor, int64_t size) {
  std::vector<float> copy(tensor.as<float>(), tensor.as<float>() + tensor.count());
  copy.resize(size, 0.0f);
  return copy;
}

constexpr int64_t kMaxElements = int64_t{1} << 46;  // products of dimensions stay far from overflow

void check_shape(const Tensor& tensor) { check(tensor.count() < kMaxElements, "a tensor is too large"); }

// The operators: what is kept from the node, and one run.

template <bool quantized>
struct SparseLinear {
  static constexpr const char* kName = quantized ? "SparseLinearQuantized" : "SparseLinear";
  static constexpr int kInputs[] = {ort::kUint8, ort::kUint16, ort::kUint16, ort::kInt8,
                                    ort::kFloat, ort::kFloat,  ort::kFloat,  ort::kUint8};
  static constexpr size_t kInputCount = quantized ? 8 : 6;
  static constexpr int kOutputs[] = {quantized ? ort::kUint8 : ort::kFloat};
  static constexpr size_t kOutputCount = 1;

  std::unique_ptr<PackedWeight> weight;
  std::vector<float> scale, bias;
  std::vector<QuantParams> grids;
  Linear linear;

  explicit SparseLinear(const Node& node) {
    Tensor counts = node.constant(1, ort::kUint16, "counts"), indices = node.constant(2, ort::kUint16, "indices");
    Tensor values = node.constant(3, ort::kInt8, "values");
    int64_t inputs = node.integer("inputs", 1, kMaxInputs), outputs = counts.count(), blocks = indices.count();
    // All sizes are checked before any of them decides how much is allocated.
    auto for_each_output = [&](size_t index, int type, const char* name) {
      Tensor tensor = node.constant(index, type, name);
      check(tensor.count() == outputs, std::string(name) + " does not have a number for each output");
      return tensor;
    };
    check(values.count() == 4 * blocks, "values are not four for each index");
    Tensor scales = for_each_output(4, ort::kFloat, "scale"), biases = for_each_output(5, ort::kFloat, "bias");
    std::vector<Tensor> grid;
    if (quantized)
      grid = {for_each_output(6, ort::kFloat, "output_scale"), for_each_output(7, ort::kUint8, "output_zero_point")};
    weight = std::make_unique<PackedWeight>(
        WeightFile{inputs, outputs, blocks, counts.as<uint16_t>(), indices.as<uint16_t>(), values.as<int8_t>()});
    int64_t size = weight->padded_outputs();
    scale = padded(scales, size);
    bias = padded(biases, size);
    if (quantized) {
      for (int64_t row = 0; row < outputs; row++) {
        Node::check_scale(grid[0].as<float>()[row], "output_scale");
        grids.push_back(make_quant_params(grid[0].as<float>()[row], grid[1].as<uint8_t>()[row]));
      }
      grids.resize(size, make_quant_params(1.0f, 0));
    }
    linear = {weight->view(),
              {scale.data(), bias.data(), node.integer("gelu", 0, 1) == 1, quantized ? grids.data() : nullptr},
              (int)node.integer("zero_point", 0, 255)};
  }

  void compute(const void* api, KernelContext* context) const {
    Tensor x = input(api, context, 0);
    check_shape(x);
    const SparseWeight& view = linear.weight;
    check(!x.shape.empty() && x.shape.back() == view.inputs, "the input is not as wide as the weight");
    int64_t tokens = x.count() / view.inputs, tiles = (tokens + kTokens - 1) / kTokens;
    std::vector<int64_t> shape = x.shape;
    shape.back() = view.outputs;
    void* y = output(api, context, 0, shape);
    if (tokens == 0) return;
    // A tile for each thread is best; where there are few tiles, each is split by outputs.
    int64_t pieces = std::min<int64_t>(view.parts, tiles < 4 ? (3 + tiles) / tiles : 1);
    int64_t parts = (view.parts + pieces - 1) / pieces;
    pieces = (view.parts + parts - 1) / parts;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(tiles * pieces), [&](size_t index) {
      int64_t tile = (int64_t)index / pieces, first = (int64_t)index % pieces * parts;
      int64_t end = std::min(first + parts, view.parts);
      run.linear(linear, x.as<uint8_t>(), tokens, tile, first, end, y, scratch(linear_scratch(view, end - first)));
    });
  }
};

struct QuantizedAttention {
  static constexpr const char* kName = "QuantizedAttention";
  static constexpr int kInputs[] = {ort::kAnyType, ort::kAnyType, ort::kAnyType, ort::kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {ort::kUint8};
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
    a.probability_grid = node.grid("probability_");
    a.output_grid = node.grid("output_");
  }

  void compute(const void* api, KernelContext* context) const {
    Attention a = attention;
    int64_t width = a.heads * a.head_size;
    Tensor tensors[] = {input(api, context, 0), input(api, context, 1), input(api, context, 2)};
    for (int i = 0; i < 3; i++) {
      const Tensor& tensor = tensors[i];
      check_shape(tensor);
      check(tensor.type == ort::kUint8 || (i > 0 && tensor.type == ort::kInt8),
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
    a.key_flip = tensors[1].type == ort::kUint8 ? 0x80 : 0;
    a.value_flip = tensors[2].type == ort::kUint8 ? 0x80 : 0;
    a.output = (uint8_t*)output(api, context, 0, {batch, a.length, width});
    if (a.length == 0) return;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)(batch * a.heads), [&](size_t index) {
      run.attention(a, (int64_t)index / a.heads, (int64_t)index % a.heads, scratch(attention_scratch(a)));
    });
  }
};

struct AddNormQuantize {
  static constexpr const char* kName = "AddNormQuantize";
  static constexpr int kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat};
  static constexpr size_t kInputCount = 4;
  static constexpr int kOutputs[] = {ort::kFloat, ort::kUint8};
  static constexpr size_t kOutputCount = 2;
  static constexpr int64_t kRows = 16;  // that one thread takes at once

  AddNorm norm{};
  std::vector<float> gamma, beta;

  explicit AddNormQuantize(const Node& node) {
    Tensor weight = node.constant(2, ort::kFloat, "gamma"), bias = node.constant(3, ort::kFloat, "beta");
    norm.size = weight.count();
    check(norm.size > 0 && bias.count() == norm.size, "gamma and beta differ in size");
    gamma.assign(weight.as<float>(), weight.as<float>() + norm.size);
    beta.assign(bias.as<float>(), bias.as<float>() + norm.size);
    norm.gamma = gamma.data();
    norm.beta = beta.data();
    norm.epsilon = node.number("epsilon");
    norm.grid = node.grid("");
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
    now.integers = (uint8_t*)output(api, context, 1, a.shape);
    int64_t rows = a.count() / norm.size;
    const Kernels& run = kernels();
    parallel(api, context, (size_t)((rows + kRows - 1) / kRows), [&](size_t index) {
      int64_t first = (int64_t)index * kRows;
      run.add_norm(now, first, std::min(first + kRows, rows));
    });
  }
};

// An operator as ONNX Runtime calls it.
template <typename Operator>
struct Registered : ort::CustomOp {
  struct Kernel {
    const void* api;
    Operator op;
  };

  explicit Registered(const void* api) : ort::CustomOp{}, api_(api) {
    version = ort::kApiVersion;
    get_name = [](const CustomOp*) { return Operator::kName; };
    get_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
    get_input_type = [](const CustomOp*, size_t index) { return Operator::kInputs[index]; };
    get_input_count = [](const CustomOp*) { return Operator::kInputCount; };
    get_output_type = [](const CustomOp*, size_t index) { return Operator::kOutputs[index]; };
    get_output_count = [](const CustomOp*) { return Operator::kOutputCount; };
    get_input_characteristic = get_output_characteristic = [](const CustomOp*, size_t) { return 0; };  // required
    get_input_memory_type = [](const CustomOp*, size_t) { return 0; };                                // the default
    get_start_version = [](const CustomOp*) { return 1; };
    get_end_version = [](const CustomOp*) { return 0x7fffffff; };
    create_kernel_v2 = [](const CustomOp* self, const void*, const KernelInfo* info, void** kernel) {
      const void* api = ((const Registered*)self)->api_;
      return guarded(api, [&] { *kernel = new Kernel{api, Operator(Node{api, info})}; });
    };
    compute_v2 = [](void* kernel, KernelContext* context) {
      const Kernel& mine = *(const Kernel*)kernel;
      return guarded(mine.api, [&] { mine.op.compute(mine.api, context); });
    };
    destroy_kernel = [](void* kernel) { delete (Kernel*)kernel; };
  }

 private:
  const void* api_;
};

// Made once, for all sessions, and never released: a session may outlive any place that could do it.
ort::Domain* make_domain(const void* api) {
  kernels();  // an unknown SPARSIFICATION_CPU is an error here
  ort::Domain* domain;
  call<ort::CreateCustomOpDomain>(api, "sparsification", &domain);
  const ort::CustomOp* operators[] = {new Registered<SparseLinear<false>>(api), new Registered<SparseLinear<true>>(api),
                                      new Registered<QuantizedAttention>(api), new Registered<AddNormQuantize>(api)};
  for (const ort::CustomOp* one : operators) call<ort::CustomOpDomain_Add>(api, domain, one);
  return domain;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// What SessionOptions.register_custom_ops_library looks for.
EXPORT Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const void* api = base->get_api(ort::kApiVersion);
  // Without an API there is no way to make an error; the nodes' domain will be unknown.
  if (!api) return nullptr;
  return guarded(api, [&] {
    static ort::Domain* domain = make_domain(api);
    call<ort::AddCustomOpDomain>(api, options, domain);
  });
}

// For tests: the kernels that run here, and a choice among them. Not while a session runs.
EXPORT const char* sparsification_available_kernels() { return available_kernels(); }
EXPORT int sparsification_select_kernels(const char* name) { return select_kernels(name); }
