// What the library exports: a factory of the execution provider, which ONNX Runtime calls.
//
// When a session is created, get_capability sees the graph, packs the weights of what it takes and keeps the plans;
// compile finds them by the outputs of the nodes that ONNX Runtime has made. Each call of the interface ends with an
// error of ONNX Runtime instead of an exception.
#include <algorithm>
#include <cstdio>
#include <memory>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "claims.h"
#include "cpu.h"

using namespace ort;

namespace {

constexpr char kName[] = "SparseExecutionProvider";
constexpr char kOptionPrefix[] = "ep.sparseexecutionprovider.";  // ONNX Runtime adds it, in lower case
constexpr char kVersion[] = PROVIDER_VERSION;
constexpr PathChar kNoFile[] = {0};  // where a message comes from

// Set once, when the library is registered; each runtime of a process has the same functions.
const void* api;
const void* ep_api;

// The node that a block has become.
struct Kernel : Compute {
  std::unique_ptr<Plan> plan;
  bool is_first = false;  // of its session
};

struct Sparse : Provider {
  Options options;
  const Logger* logger;
  std::vector<std::unique_ptr<Plan>> plans;  // between get_capability and compile
};

// ONNX Runtime calls it when it has dropped the dense weights; without the trim, glibc would keep their memory.
Status* ORT_CALL create_state(Compute* self, ComputeContext*, void** state) {
#ifdef __GLIBC__
  if (static_cast<Kernel*>(self)->is_first) malloc_trim(0);
#endif
  *state = self;
  return nullptr;
}
Status* ORT_CALL compute(Compute* self, void*, KernelContext* context) {
  return guarded(api, [&] { static_cast<Kernel*>(self)->plan->compute(api, context); });
}
void ORT_CALL release_state(Compute*, void*) {}

std::vector<std::string> names(const GraphNode* node, bool outputs) {
  size_t count;
  outputs ? call<NumOutputs>(api, node, &count) : call<NumInputs>(api, node, &count);
  std::vector<const ValueInfo*> values(count);
  outputs ? call<GetOutputs>(api, node, values.data(), count) : call<GetInputs>(api, node, values.data(), count);
  std::vector<std::string> all;
  for (const ValueInfo* value : values) {
    const char* name = "";
    if (value) call<ValueName>(api, value, &name);
    all.push_back(name);
  }
  return all;
}

void log(const Sparse& provider, const Claims& claims) {
  int64_t count = claims.taken(), all = (int64_t)claims.layers.size();
  std::string text = count > 0 ? std::to_string(count) + " of " + std::to_string(all) + " Linear layers are sparse"
                               : "none of " + std::to_string(all) + " Linear layers has enough zeros: the CPU provider "
                                 "runs the model";
  text = std::string(kName) + ": " + text + "; python -m onnxruntime_ep_sparse explain MODEL says more";
  call<LogMessage>(api, provider.logger, (int)(count > 0 ? kInfo : kWarning), text.c_str(), kNoFile, 0,
                   "GetCapability");
}

Status* ORT_CALL get_capability(Provider* self, const Graph* graph, GraphSupportInfo* info) {
  return guarded(api, [&] {
    Sparse& provider = *static_cast<Sparse*>(self);
    GraphView view(api, graph);
    Claims claims = find_claims(view, provider.options);
    provider.plans.clear();
    for (Block& block : claims.blocks) {
      std::vector<const GraphNode*> handles;
      for (int node : block.nodes) handles.push_back(view.node(node).handle);
      FusionOptions fusion{kEpVersion, true};
      Status* status = AddNodesToFuse::call(ep_api, info, handles.data(), handles.size(), &fusion);
      if (status) throw StatusError{status};
      provider.plans.push_back(std::move(block.plan));
    }
    if (!claims.layers.empty()) log(provider, claims);
    if (provider.options.report.empty()) return;
    std::FILE* file = std::fopen(provider.options.report.c_str(), "a");
    check(file, "the option report names a file that cannot be written");
    std::fputs(to_json(claims.layers).c_str(), file);
    std::fclose(file);
  });
}

Status* ORT_CALL compile(Provider* self, const Graph**, const GraphNode** fused, size_t count, Compute** computes,
                         GraphNode**) {
  return guarded(api, [&] {
    Sparse& provider = *static_cast<Sparse*>(self);
    std::vector<std::unique_ptr<Kernel>> made;
    for (size_t i = 0; i < count; i++) {
      std::vector<std::string> outputs = names(fused[i], true);
      auto place = std::find_if(provider.plans.begin(), provider.plans.end(),
                                [&](const std::unique_ptr<Plan>& plan) { return plan->computes_one_of(outputs); });
      check(place != provider.plans.end(), "ONNX Runtime has made a node that the provider has not asked for");
      auto kernel = std::make_unique<Kernel>();
      kernel->version = kEpVersion;
      kernel->create_state = create_state;
      kernel->compute = compute;
      kernel->release_state = release_state;
      kernel->plan = std::move(*place);
      kernel->is_first = i == 0;
      provider.plans.erase(place);
      kernel->plan->connect(names(fused[i], false), outputs);
      made.push_back(std::move(kernel));
    }
    for (size_t i = 0; i < count; i++) computes[i] = made[i].release();
  });
}

void ORT_CALL release_computes(Provider*, Compute** computes, size_t count) {
  for (size_t i = 0; i < count; i++) delete static_cast<Kernel*>(computes[i]);
}

std::string option(const SessionOptions* options, const char* name, const char* otherwise) {
  std::string key = std::string(kOptionPrefix) + name;
  int is_there = 0;
  call<HasSessionConfigEntry>(api, options, key.c_str(), &is_there);
  if (!is_there) return otherwise;
  size_t size = 0;
  if (Status* status = GetSessionConfigEntry::call(api, options, key.c_str(), nullptr, &size))
    ReleaseStatus::call(api, status);  // it says how long the text is
  std::string text(size, '\0');
  call<GetSessionConfigEntry>(api, options, key.c_str(), text.data(), &size);
  text.resize(text.find('\0') == std::string::npos ? text.size() : text.find('\0'));
  return text;
}

bool flag(const SessionOptions* options, const char* name, const char* otherwise) {
  std::string text = option(options, name, otherwise);
  check(text == "0" || text == "1", std::string("the option ") + name + " is '" + text + "'; 0 or 1 is expected");
  return text == "1";
}

const char* ORT_CALL provider_name(const Provider*) { return kName; }
const char* ORT_CALL factory_name(const Factory*) { return kName; }
const char* ORT_CALL factory_vendor(const Factory*) { return "sparsification"; }
uint32_t ORT_CALL vendor_id(const Factory*) { return 0; }
const char* ORT_CALL factory_version(const Factory*) { return kVersion; }

Status* ORT_CALL get_devices(Factory* self, const HardwareDevice* const* devices, size_t count, EpDevice** found,
                             size_t most, size_t* number) {
  return guarded(api, [&] {
    *number = 0;
    for (size_t i = 0; i < count && *number < most; i++) {
      if (HardwareDeviceType::call(api, devices[i]) != kCpuDevice) continue;
      KeyValuePairs* metadata;  // ONNX Runtime copies them
      CreateKeyValuePairs::call(api, &metadata);
      AddKeyValuePair::call(api, metadata, "instruction_set", kernels().name);
      Status* status = CreateEpDevice::call(ep_api, self, devices[i], metadata, nullptr, &found[*number]);
      ReleaseKeyValuePairs::call(api, metadata);
      if (status) throw StatusError{status};
      ++*number;
    }
  });
}

Status* ORT_CALL create(Factory*, const HardwareDevice* const*, const KeyValuePairs* const*, size_t,
                        const SessionOptions* options, const Logger* logger, Provider** made) {
  return guarded(api, [&] {
    auto provider = std::make_unique<Sparse>();
    provider->version = kEpVersion;
    provider->get_name = provider_name;
    provider->get_capability = get_capability;
    provider->compile = compile;
    provider->release_computes = release_computes;
    for (void*& function : provider->optional) function = nullptr;
    provider->options.fuse = flag(options, "fuse", "1");
    provider->options.always = flag(options, "always", "0");
    provider->options.report = option(options, "report", "");
    provider->logger = logger;
    *made = provider.release();
  });
}
void ORT_CALL release(Factory*, Provider* provider) { delete static_cast<Sparse*>(provider); }

Status* ORT_CALL no_allocator(Factory*, const MemoryInfo*, const KeyValuePairs*, Allocator** allocator) {
  *allocator = nullptr;
  return nullptr;
}
void ORT_CALL release_allocator(Factory*, Allocator*) {}
Status* ORT_CALL no_transfer(Factory*, DataTransfer** transfer) {
  *transfer = nullptr;
  return nullptr;
}
bool ORT_CALL is_stream_aware(const Factory*) { return false; }

// It stays, as the library does: a session releases its provider with it, also after both were unregistered.
Factory factory{kEpVersion, factory_name, factory_vendor, get_devices, create, release, vendor_id, factory_version,
                nullptr, no_allocator, release_allocator, no_transfer, is_stream_aware, nullptr};

}  // namespace

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

EXPORT Status* CreateEpFactories(const char*, const ApiBase* base, const Logger*, Factory** factories, size_t most,
                                 size_t* number) {
  const void* newest = base->get_api(kEpVersion);
  if (!newest) {
    std::string text = std::string(kName) + " needs ONNX Runtime 1.23 or later, this is " + base->get_version();
    return CreateStatus::call(base->get_api(1), kFail, text.c_str());
  }
  api = newest;
  ep_api = GetEpApi::call(api);
  return guarded(api, [&] {
    kernels();  // an unknown SPARSIFICATION_CPU is an error here
    check(most > 0, "there is no room for a factory");
    factories[0] = &factory;
    *number = 1;
  });
}

EXPORT Status* ReleaseEpFactory(Factory*) { return nullptr; }
