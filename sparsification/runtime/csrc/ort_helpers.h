// ONNX Runtime's C interface in C++: errors as exceptions, tensors, nodes, and a class as an operator.
//
// A model's file can hold anything: a class checks its node's constants and attributes when a session creates its kernel,
// and the shapes of activations in each run. What it throws becomes an error of ONNX Runtime.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "ort_api.h"

namespace ort {

inline void check(bool right, const std::string& what) {
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
    return CreateStatus::call(api, kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return CreateStatus::call(api, kFail, error.what());
  }
}

// Elements of a tensor of a shape.
inline int64_t count(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t dimension : shape) product *= dimension;
  return product;
}

struct Tensor {
  const void* data;
  int type;
  std::vector<int64_t> shape;

  Tensor(const void* api, const Value* value) {
    void* memory;
    call<GetTensorMutableData>(api, const_cast<Value*>(value), &memory);
    data = memory;
    TensorInfo* raw;
    call<GetTensorTypeAndShape>(api, value, &raw);
    auto release = [api](TensorInfo* info) { ReleaseTensorTypeAndShapeInfo::call(api, info); };
    std::unique_ptr<TensorInfo, decltype(release)> info(raw, release);
    call<GetTensorElementType>(api, info.get(), &type);
    size_t rank;
    call<GetDimensionsCount>(api, info.get(), &rank);
    shape.resize(rank);
    call<GetDimensions>(api, info.get(), shape.data(), rank);
  }

  int64_t count() const { return ort::count(shape); }
  template <typename T>
  const T* as() const {
    return (const T*)data;
  }
  template <typename T>
  std::vector<T> values() const {
    return {as<T>(), as<T>() + count()};
  }
};

inline Tensor input(const void* api, const KernelContext* context, size_t index) {
  const Value* value;
  call<KernelContext_GetInput>(api, context, index, &value);
  return Tensor(api, value);
}

inline void* output(const void* api, KernelContext* context, size_t index, const std::vector<int64_t>& shape) {
  Value* value;
  void* memory;
  call<KernelContext_GetOutput>(api, context, index, shape.data(), shape.size(), &value);
  call<GetTensorMutableData>(api, value, &memory);
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
    call<KernelContext_ParallelFor>(api, context, (void (*)(void*, size_t))one, count, (size_t)0, (void*)&shared);
  }
  if (shared.failed) throw std::bad_alloc();
}

// Runs work(tile, first part, end) on the session's threads. A tile for each thread is best; where there are fewer than
// `tasks`, each is split by parts.
template <typename Work>
void parallel_tiles(const void* api, const KernelContext* context, int64_t tiles, int64_t parts, const Work& work,
                    int64_t tasks = 4) {
  int64_t pieces = std::min(parts, tiles < tasks ? (tasks - 1 + tiles) / tiles : 1);
  int64_t each = (parts + pieces - 1) / pieces;
  pieces = (parts + each - 1) / each;
  parallel(api, context, (size_t)(tiles * pieces), [&](size_t index) {
    int64_t first = (int64_t)index % pieces * each;
    work((int64_t)index / pieces, first, std::min(first + each, parts));
  });
}

// A node at the time when its kernel is created.
struct Node {
  const void* api;
  const KernelInfo* info;

  Tensor constant(size_t index, int type, const char* name) const {
    int is_constant = 0;
    const Value* value = nullptr;
    call<KernelInfoGetConstantInput_tensor>(api, info, index, &is_constant, &value);
    check(is_constant && value, std::string(name) + " is no constant");
    Tensor tensor(api, value);
    check(tensor.type == type, std::string(name) + " has another type than it should");
    return tensor;
  }
  int64_t integer(const char* name, int64_t least, int64_t most) const {
    int64_t value;
    call<KernelInfoGetAttribute_int64>(api, info, name, &value);
    check(value >= least && value <= most, std::string(name) + " is out of range");
    return value;
  }
  float number(const char* name) const {
    float value;
    call<KernelInfoGetAttribute_float>(api, info, name, &value);
    check(std::isfinite(value), std::string(name) + " is not finite");
    return value;
  }
  QuantParams quant_params(const std::string& prefix) const {
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

constexpr int64_t kMaxElements = int64_t{1} << 46;  // products of dimensions stay far from overflow

inline void check_shape(const Tensor& tensor) { check(tensor.count() < kMaxElements, "a tensor is too large"); }

// A class as an operator: it has kName, kInputs, kInputCount, kOutputs, kOutputCount, a constructor that keeps what it
// needs of its node, and compute for one run.
template <typename Kind>
struct Operator : CustomOp {
  struct Kernel {
    const void* api;
    Kind op;
  };

  explicit Operator(const void* api) : CustomOp{}, api_(api) {
    version = kApiVersion;
    get_name = [](const CustomOp*) { return Kind::kName; };
    get_provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
    get_input_type = [](const CustomOp*, size_t index) { return Kind::kInputs[index]; };
    get_input_count = [](const CustomOp*) { return Kind::kInputCount; };
    get_output_type = [](const CustomOp*, size_t index) { return Kind::kOutputs[index]; };
    get_output_count = [](const CustomOp*) { return Kind::kOutputCount; };
    get_input_characteristic = get_output_characteristic = [](const CustomOp*, size_t) { return 0; };  // required
    get_input_memory_type = [](const CustomOp*, size_t) { return 0; };                                // the default
    get_start_version = [](const CustomOp*) { return 1; };
    get_end_version = [](const CustomOp*) { return 0x7fffffff; };
    create_kernel_v2 = [](const CustomOp* self, const void*, const KernelInfo* info, void** kernel) {
      const void* api = ((const Operator*)self)->api_;
      return guarded(api, [&] { *kernel = new Kernel{api, Kind(Node{api, info})}; });
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

}  // namespace ort
