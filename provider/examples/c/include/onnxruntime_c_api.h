// The part of ONNX Runtime's C header that run_model.c needs, in our own words: the Python wheel has the library and no
// header. With an archive of ONNX Runtime, or its NuGet package, use the header that is in it.
//
// OrtApi is a table of function pointers that is only ever appended to; the asserts below state each position.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtEpDevice OrtEpDevice;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;

enum { ORT_LOGGING_LEVEL_ERROR = 3, OrtArenaAllocator = 1, OrtMemTypeDefault = 0, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7 };

typedef struct OrtApi {
  void *unused_0[2];
  const char *(*GetErrorMessage)(const OrtStatus *);
  OrtStatus *(*CreateEnv)(int level, const char *name, OrtEnv **);
  void *unused_4[3];
  OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **);
  void *unused_8;
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *names, const OrtValue *const *inputs,
                    size_t, const char *const *output_names, size_t, OrtValue **outputs);
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
  void *unused_11[19];
  OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *);
  void *unused_31[5];
  OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t, OrtAllocator *, char **);
  OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **);
  void *unused_38[11];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t bytes, const int64_t *shape,
                                               size_t rank, int type, OrtValue **);
  void *unused_50;
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);
  void *unused_52[17];
  OrtStatus *(*CreateCpuMemoryInfo)(int allocator, int memory, OrtMemoryInfo **);
  void *unused_70[8];
  OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);
  void *unused_79[13];
  void (*ReleaseEnv)(OrtEnv *);
  void *unused_93[2];
  void (*ReleaseSession)(OrtSession *);
  void *unused_96[205];
  OrtStatus *(*RegisterExecutionProviderLibrary)(OrtEnv *, const char *name, const char *path);  // this and on: 1.22
  void *unused_302;
  OrtStatus *(*GetEpDevices)(const OrtEnv *, const OrtEpDevice *const **, size_t *);
  OrtStatus *(*SessionOptionsAppendExecutionProvider_V2)(OrtSessionOptions *, OrtEnv *, const OrtEpDevice *const *,
                                                         size_t, const char *const *keys, const char *const *values,
                                                         size_t options);
  void *unused_305[7];
  const char *(*EpDevice_EpName)(const OrtEpDevice *);
} OrtApi;

#define ORT_POSITION(member, position) \
  _Static_assert(offsetof(OrtApi, member) == (position) * sizeof(void *), #member " has another position")
ORT_POSITION(CreateSession, 7);
ORT_POSITION(Run, 9);
ORT_POSITION(SessionGetInputCount, 30);
ORT_POSITION(SessionGetInputName, 36);
ORT_POSITION(CreateTensorWithDataAsOrtValue, 49);
ORT_POSITION(GetTensorMutableData, 51);
ORT_POSITION(CreateCpuMemoryInfo, 69);
ORT_POSITION(GetAllocatorWithDefaultOptions, 78);
ORT_POSITION(ReleaseEnv, 92);
ORT_POSITION(ReleaseSession, 95);
ORT_POSITION(RegisterExecutionProviderLibrary, 301);
ORT_POSITION(GetEpDevices, 303);
ORT_POSITION(EpDevice_EpName, 312);

typedef struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version);  // null if the library is older than that version
  const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);
