// The part of ONNX Runtime's C interface that a library of operators needs.
//
// The interface is stable: OrtApi is a table of function pointers that is only ever appended to, and each pointer keeps
// its position. The positions below were counted in onnxruntime_c_api.h of version 1.29 and have been there since the
// version noted; 1.20 and later have all of them. The Python wheel carries no headers, hence this file.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

namespace ort {

constexpr uint32_t kApiVersion = 20;
constexpr int kInvalidArgument = 2, kFail = 1;                        // OrtErrorCode
enum Type : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kUint32 = 12 };   // ONNXTensorElementDataType
constexpr int kAnyType = 0;                                           // checked when the kernel runs

struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;

// A function of the table: its position, and what it takes and gives.
template <size_t position, typename Result, typename... Arguments>
struct Function {
  static Result call(const void* api, Arguments... arguments) {
    using Pointer = Result(ORT_CALL*)(Arguments...);
    return reinterpret_cast<Pointer>(const_cast<void*>(((void* const*)api)[position]))(arguments...);
  }
};

using CreateStatus = Function<0, Status*, int, const char*>;
using CreateCustomOpDomain = Function<26, Status*, const char*, Domain**>;
using CustomOpDomain_Add = Function<27, Status*, Domain*, const struct CustomOp*>;
using AddCustomOpDomain = Function<28, Status*, SessionOptions*, Domain*>;
using GetTensorMutableData = Function<51, Status*, Value*, void**>;
using GetTensorElementType = Function<60, Status*, const TensorInfo*, int*>;
using GetDimensionsCount = Function<61, Status*, const TensorInfo*, size_t*>;
using GetDimensions = Function<62, Status*, const TensorInfo*, int64_t*, size_t>;
using GetTensorTypeAndShape = Function<65, Status*, const Value*, TensorInfo**>;
using KernelInfoGetAttribute_float = Function<85, Status*, const KernelInfo*, const char*, float*>;
using KernelInfoGetAttribute_int64 = Function<86, Status*, const KernelInfo*, const char*, int64_t*>;
using KernelContext_GetInput = Function<90, Status*, const KernelContext*, size_t, const Value**>;
using KernelContext_GetOutput = Function<91, Status*, KernelContext*, size_t, const int64_t*, size_t, Value**>;
using GetErrorMessage = Function<2, const char*, const Status*>;
using ReleaseStatus = Function<93, void, Status*>;
using ReleaseTensorTypeAndShapeInfo = Function<99, void, TensorInfo*>;
// since 1.15
using KernelInfoGetConstantInput_tensor = Function<249, Status*, const KernelInfo*, size_t, int*, const Value**>;
using KernelContext_ParallelFor =
    Function<274, Status*, const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*>;  // since 1.17

struct ApiBase {
  const void*(ORT_CALL* get_api)(uint32_t version);  // null if the runtime is older than that version
  const char*(ORT_CALL* get_version)();
};

// OrtCustomOp as of version 20, all 26 members; what we leave null is optional.
struct CustomOp {
  uint32_t version;
  void*(ORT_CALL* create_kernel)(const CustomOp*, const void*, const KernelInfo*);
  const char*(ORT_CALL* get_name)(const CustomOp*);
  const char*(ORT_CALL* get_provider)(const CustomOp*);
  int(ORT_CALL* get_input_type)(const CustomOp*, size_t);
  size_t(ORT_CALL* get_input_count)(const CustomOp*);
  int(ORT_CALL* get_output_type)(const CustomOp*, size_t);
  size_t(ORT_CALL* get_output_count)(const CustomOp*);
  void(ORT_CALL* compute)(void*, KernelContext*);
  void(ORT_CALL* destroy_kernel)(void*);
  int(ORT_CALL* get_input_characteristic)(const CustomOp*, size_t);
  int(ORT_CALL* get_output_characteristic)(const CustomOp*, size_t);
  int(ORT_CALL* get_input_memory_type)(const CustomOp*, size_t);
  void* variadic[4];
  Status*(ORT_CALL* create_kernel_v2)(const CustomOp*, const void*, const KernelInfo*, void**);
  Status*(ORT_CALL* compute_v2)(void*, KernelContext*);
  void* infer_shape;
  int(ORT_CALL* get_start_version)(const CustomOp*);
  int(ORT_CALL* get_end_version)(const CustomOp*);
  void* in_place[4];
};

}  // namespace ort
