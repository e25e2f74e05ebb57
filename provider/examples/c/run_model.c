// Runs a model of token ids on the sparse execution provider, and prints the first numbers of its first output.
//
//   cc -I onnxruntime/include run_model.c -L onnxruntime/lib -lonnxruntime -o run_model
//   ./run_model LIBRARY MODEL [REPORT]
//
// LIBRARY is the absolute path of the provider's library, which `python -c "import onnxruntime_ep_sparse as sparse;
// print(sparse.get_library_path())"` prints. REPORT is a file to which the provider appends a line of JSON for each
// Linear layer. Without ONNX Runtime's own headers, include/ beside this file has what is needed of them.
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const OrtApi *ort;

static void check(OrtStatus *status) {
  if (!status) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  exit(1);
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "usage: %s LIBRARY MODEL [REPORT]\n", argv[0]), 2;
  ort = OrtGetApiBase()->GetApi(23);
  if (!ort) return fprintf(stderr, "ONNX Runtime 1.23 or later is needed\n"), 1;
  OrtEnv *env;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run_model", &env));
  check(ort->RegisterExecutionProviderLibrary(env, "sparse", argv[1]));
  const OrtEpDevice *const *devices, *device = NULL;
  size_t count;
  check(ort->GetEpDevices(env, &devices, &count));
  for (size_t i = 0; i < count; i++)
    if (!strcmp(ort->EpDevice_EpName(devices[i]), "SparseExecutionProvider")) device = devices[i];

  OrtSessionOptions *options;
  OrtSession *session;
  const char *keys[] = {"report"}, *values[] = {argc > 3 ? argv[3] : ""};
  check(ort->CreateSessionOptions(&options));
  check(ort->SessionOptionsAppendExecutionProvider_V2(options, env, &device, 1, keys, values, 1));
  check(ort->CreateSession(env, argv[2], options, &session));

  enum { LENGTH = 8 };  // tokens: ids 1 to 8, or 1 for each attention_mask and 0 for each token_type_id
  int64_t numbers[3][LENGTH], shape[] = {1, LENGTH};
  char *names[3], *output_name;
  OrtValue *inputs[3], *output = NULL;
  OrtAllocator *allocator;
  OrtMemoryInfo *memory;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->SessionGetInputCount(session, &count));
  if (count > 3) return fprintf(stderr, "the model has more than three inputs\n"), 1;
  for (size_t i = 0; i < count; i++) {
    check(ort->SessionGetInputName(session, i, allocator, &names[i]));
    for (int64_t t = 0; t < LENGTH; t++)
      numbers[i][t] = strcmp(names[i], "input_ids") ? !strcmp(names[i], "attention_mask") : t + 1;
    check(ort->CreateTensorWithDataAsOrtValue(memory, numbers[i], sizeof numbers[i], shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &inputs[i]));
  }
  check(ort->SessionGetOutputName(session, 0, allocator, &output_name));
  check(ort->Run(session, NULL, (const char *const *)names, (const OrtValue *const *)inputs, count,
                 (const char *const *)&output_name, 1, &output));
  float *result;
  check(ort->GetTensorMutableData(output, (void **)&result));
  for (int i = 0; i < LENGTH; i++) printf("%.6g\n", result[i]);
  ort->ReleaseSession(session);  // before the environment, which holds the library
  ort->ReleaseEnv(env);
  return 0;
}
