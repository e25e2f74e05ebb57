// The part of ONNX Runtime's C interface that a plug-in execution provider needs, beside ort_api.h.
//
// OrtApi and OrtEpApi are tables of function pointers that are only ever appended to. The positions were counted in
// onnxruntime_c_api.h and onnxruntime_ep_c_api.h of version 1.29; each pointer has its position since the
// version noted. 1.23 is the first version whose interface has all of them.
#pragma once

#include "ort_api.h"

namespace ort {

constexpr uint32_t kEpVersion = 23;
constexpr int kCpuDevice = 0;                             // OrtHardwareDeviceType
constexpr int kInt32 = 6, kInt64 = 7;                     // ONNXTensorElementDataType
enum AttributeType : int { kInt = 1, kInts = 2, kNumber = 3, kText = 5 };  // OrtOpAttrType
enum Severity : int { kInfo = 1, kWarning = 2 };          // OrtLoggingLevel

#if defined(_WIN32)
using PathChar = wchar_t;  // ORTCHAR_T
#else
using PathChar = char;
#endif

struct Graph;
struct GraphNode;
struct ValueInfo;
struct Attribute;
struct Logger;
struct HardwareDevice;
struct EpDevice;
struct KeyValuePairs;
struct GraphSupportInfo;
struct ComputeContext;
struct MemoryInfo;
struct Allocator;
struct DataTransfer;

// OrtApi, since 1.7 and 1.17
using HasSessionConfigEntry = Function<237, Status*, const SessionOptions*, const char*, int*>;         // 1.14
using GetSessionConfigEntry = Function<238, Status*, const SessionOptions*, const char*, char*, size_t*>;  // 1.14
using LogMessage = Function<247, Status*, const Logger*, int, const char*, const PathChar*, int, const char*>;  // 1.15
using ReadAttribute = Function<272, Status*, const Attribute*, int, void*, size_t, size_t*>;            // 1.17
using ValueName = Function<289, Status*, const ValueInfo*, const char**>;                               // 1.22
using CreateKeyValuePairs = Function<295, void, KeyValuePairs**>;                                        // 1.22
using AddKeyValuePair = Function<296, void, KeyValuePairs*, const char*, const char*>;                   // 1.22
using ReleaseKeyValuePairs = Function<300, void, KeyValuePairs*>;                                        // 1.22
using HardwareDeviceType = Function<307, int, const HardwareDevice*>;                                   // 1.22
using GetEpApi = Function<317, const void*>;                                                            // 1.22
// since 1.23
using InitializerValue = Function<326, Status*, const ValueInfo*, const Value**>;
using IsGraphOutput = Function<330, Status*, const ValueInfo*, bool*>;
using IsConstantInitializer = Function<331, Status*, const ValueInfo*, bool*>;
using NumNodes = Function<344, Status*, const Graph*, size_t*>;
using GetNodes = Function<345, Status*, const Graph*, const GraphNode**, size_t>;
using NodeOperatorType = Function<350, Status*, const GraphNode*, const char**>;
using NodeDomain = Function<351, Status*, const GraphNode*, const char**>;
using NumInputs = Function<353, Status*, const GraphNode*, size_t*>;
using GetInputs = Function<354, Status*, const GraphNode*, const ValueInfo**, size_t>;
using NumOutputs = Function<355, Status*, const GraphNode*, size_t*>;
using GetOutputs = Function<356, Status*, const GraphNode*, const ValueInfo**, size_t>;
using NumImplicitInputs = Function<357, Status*, const GraphNode*, size_t*>;  // of a node with subgraphs
using GetImplicitInputs = Function<358, Status*, const GraphNode*, const ValueInfo**, size_t>;
using AttributeByName = Function<361, Status*, const GraphNode*, const char*, const Attribute**>;

// OrtEpApi, since 1.23
struct FusionOptions {
  uint32_t version;
  bool drop_constant_initializers;
};
using CreateEpDevice = Function<0, Status*, struct Factory*, const HardwareDevice*, const KeyValuePairs*,
                                const KeyValuePairs*, EpDevice**>;
using AddNodesToFuse = Function<2, Status*, GraphSupportInfo*, const GraphNode* const*, size_t, const FusionOptions*>;

// What the provider fills in, as of 1.23: a newer runtime reads `version` and stops there. Null where optional.

// OrtNodeComputeInfo
struct Compute {
  uint32_t version;
  Status*(ORT_CALL* create_state)(Compute*, ComputeContext*, void** state);
  Status*(ORT_CALL* compute)(Compute*, void* state, KernelContext*);
  void(ORT_CALL* release_state)(Compute*, void* state);
};

// OrtEp
struct Provider {
  uint32_t version;
  const char*(ORT_CALL* get_name)(const Provider*);
  Status*(ORT_CALL* get_capability)(Provider*, const Graph*, GraphSupportInfo*);
  Status*(ORT_CALL* compile)(Provider*, const Graph**, const GraphNode** fused, size_t, Compute**, GraphNode**);
  void(ORT_CALL* release_computes)(Provider*, Compute**, size_t);
  void* optional[8];  // layout (2), dynamic options, run start, run end, allocator, stream, compatibility
};

// OrtEpFactory
struct Factory {
  uint32_t version;
  const char*(ORT_CALL* get_name)(const Factory*);
  const char*(ORT_CALL* get_vendor)(const Factory*);
  Status*(ORT_CALL* get_devices)(Factory*, const HardwareDevice* const*, size_t, EpDevice**, size_t most, size_t*);
  Status*(ORT_CALL* create)(Factory*, const HardwareDevice* const*, const KeyValuePairs* const*, size_t,
                            const SessionOptions*, const Logger*, Provider**);
  void(ORT_CALL* release)(Factory*, Provider*);
  uint32_t(ORT_CALL* get_vendor_id)(const Factory*);
  const char*(ORT_CALL* get_version)(const Factory*);
  void* validate_compiled;
  Status*(ORT_CALL* create_allocator)(Factory*, const MemoryInfo*, const KeyValuePairs*, Allocator**);
  void(ORT_CALL* release_allocator)(Factory*, Allocator*);
  Status*(ORT_CALL* create_data_transfer)(Factory*, DataTransfer**);
  bool(ORT_CALL* is_stream_aware)(const Factory*);
  void* create_stream;
};

}  // namespace ort
