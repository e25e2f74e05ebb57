#include "weight.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

void check(bool right, const char* what) {
  if (!right) throw std::invalid_argument(what);
}

// Rows of slices that any weight may have, and how many more for each row and block in the file. A weight of 28,672 inputs
// and 8,192 outputs has 295 thousand.
constexpr int64_t kFreeCells = int64_t{1} << 20, kCellsPerNumber = 8;

// Sizes are checked first: nothing is read or allocated before they are consistent.
void check_file(const WeightFile& file) {
  check(file.inputs > 0 && file.inputs <= kMaxInputs, "the weight has no inputs or more than 65536");
  check(file.outputs > 0 && file.outputs < (1 << 28), "the weight has no outputs or too many");
  check(file.blocks >= 0 && file.blocks < (1 << 28), "the weight has too many blocks");
  int64_t groups = (file.inputs + 3) / 4, slices = (groups + kSliceGroups - 1) / kSliceGroups, blocks = 0;
  // A row takes room in each slice, also where it has no block: without this bound a small file could fill the memory.
  check(slices * file.outputs <= kFreeCells + kCellsPerNumber * (file.outputs + file.blocks),
        "the weight has too few blocks for as many inputs and outputs");
  for (int64_t row = 0; row < file.outputs; row++) {
    // Without this bound a repeated block could overflow the sums.
    check(file.counts[row] <= groups, "a row of the weight has more blocks than there are groups of inputs");
    blocks += file.counts[row];
  }
  check(blocks == file.blocks, "the rows' blocks are not as many as the weight's");
  for (int64_t block = 0; block < blocks; block++)
    check(file.indices[block] < groups, "a block of the weight lies beyond its inputs");
}

}  // namespace

PackedWeight::PackedWeight(const WeightFile& file) {
  check_file(file);
  SparseWeight& view = view_;
  view.inputs = file.inputs;
  view.outputs = file.outputs;
  view.groups = (file.inputs + 3) / 4;
  view.slices = (view.groups + kSliceGroups - 1) / kSliceGroups;
  view.slice_groups = (view.groups + view.slices - 1) / view.slices;
  view.parts = (file.outputs + kPartRows - 1) / kPartRows;
  row_sums_.assign(padded_outputs(), 0);
  order_.reserve(view.slices * padded_outputs());
  steps_.reserve(view.slices * padded_outputs());

  std::vector<int64_t> starts(padded_outputs() + 1, file.blocks);
  starts[0] = 0;
  for (int64_t row = 0; row < file.outputs; row++) starts[row + 1] = starts[row] + file.counts[row];
  // By row and slice would be one pass, but then each slice of a row would need its own list.
  for (int64_t slice = 0; slice < view.slices; slice++) {
    int64_t first_group = slice * view.slice_groups, end_group = first_group + view.slice_groups;
    for (int64_t part = 0; part < view.parts; part++) {
      first_.push_back((uint32_t)offsets_.size());
      std::vector<int64_t> rows[kPartRows];
      for (int row = 0; row < kPartRows; row++)
        for (int64_t block = starts[part * kPartRows + row]; block < starts[part * kPartRows + row + 1]; block++)
          if (file.indices[block] >= first_group && file.indices[block] < end_group) rows[row].push_back(block);
      int order[kPartRows];
      std::iota(order, order + kPartRows, 0);
      auto steps = [&](int row) { return (rows[row].size() + kStep - 1) / kStep; };
      std::stable_sort(order, order + kPartRows, [&](int a, int b) { return steps(a) > steps(b); });
      for (int row : order) {
        order_.push_back((uint16_t)row);
        steps_.push_back((uint16_t)steps(row));
        for (size_t index = 0; index < steps(row) * kStep; index++) {
          int8_t four[4] = {};
          int64_t group = first_group;  // a block of zeros, where the row has no more
          if (index < rows[row].size()) {
            int64_t block = rows[row][index];
            group = file.indices[block];
            std::memcpy(four, file.values + 4 * block, std::min<int64_t>(4, file.inputs - 4 * group));
          }
          int32_t value;
          std::memcpy(&value, four, 4);
          offsets_.push_back((uint16_t)((group - first_group) * kGroupBytes));
          values_.push_back(value);
          row_sums_[part * kPartRows + row] += four[0] + four[1] + four[2] + four[3];
        }
      }
    }
  }
  view.row_sums = row_sums_.data();
  view.order = order_.data();
  view.steps = steps_.data();
  view.first = first_.data();
  view.offsets = offsets_.data();
  view.values = values_.data();
}

// Which kernels

extern const Kernels kernels_plain;
#ifdef HAVE_avx512_vnni
extern const Kernels kernels_avx512_vnni;
#endif
#ifdef HAVE_avx_vnni
extern const Kernels kernels_avx_vnni;
#endif
#ifdef HAVE_avx2
extern const Kernels kernels_avx2;
#endif
#ifdef HAVE_dotprod
extern const Kernels kernels_dotprod;
#endif

namespace {

#if defined(__x86_64__) || defined(__i386__)
[[maybe_unused]] bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 4);
}
#elif defined(__aarch64__)
[[maybe_unused]] bool has_dotprod() {
#if defined(__APPLE__)
  return true;
#elif defined(__linux__)
  return getauxval(AT_HWCAP) & 1 << 20;
#else
  return false;
#endif
}
#endif

struct Available {
  const Kernels* list[8];
  int count = 0;
  std::string names;

  Available() {
#ifdef HAVE_avx512_vnni
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      list[count++] = &kernels_avx512_vnni;
#endif
#ifdef HAVE_avx_vnni
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_avx_vnni())
      list[count++] = &kernels_avx_vnni;
#endif
#ifdef HAVE_avx2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list[count++] = &kernels_avx2;
#endif
#ifdef HAVE_dotprod
    if (has_dotprod()) list[count++] = &kernels_dotprod;
#endif
    list[count++] = &kernels_plain;
    for (int index = 0; index < count; index++) names += std::string(list[index]->name) + " ";
  }

  const Kernels* find(const char* name) const {
    for (int index = 0; index < count; index++)
      if (!std::strcmp(list[index]->name, name)) return list[index];
    return nullptr;
  }
};

const Available& available() {
  static const Available result;
  return result;
}

std::atomic<const Kernels*> selected{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* chosen = selected.load();
  if (chosen) return *chosen;
  const char* name = std::getenv("SPARSIFICATION_CPU");
  chosen = name && *name ? available().find(name) : available().list[0];
  if (!chosen)
    throw std::invalid_argument(std::string("SPARSIFICATION_CPU=") + name + ": here there are only " +
                                available().names);
  selected.store(chosen);
  return *chosen;
}

bool select_kernels(const char* name) {
  const Kernels* chosen = available().find(name);
  if (chosen) selected.store(chosen);
  return chosen != nullptr;
}

const char* available_kernels() { return available().names.c_str(); }

namespace {

struct Scratch {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(memory); }
};

}  // namespace

void* scratch(size_t bytes) {
  static thread_local Scratch mine;
  if (mine.bytes < bytes) {
    std::free(mine.memory);
    mine.bytes = 0;
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    mine.memory = std::aligned_alloc(4096, rounded);
    if (!mine.memory) throw std::bad_alloc();
    mine.bytes = rounded;
  }
  return mine.memory;
}
