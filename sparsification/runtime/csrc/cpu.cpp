#include "cpu.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

extern const Kernels kernels_plain;
#ifdef HAVE_avx512_vbmi
extern const Kernels kernels_avx512_vbmi;
#endif
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
// What the CPU has and the operating system saves. Not __builtin_cpu_supports: with Zig's runtime it knows nothing.
struct Features {
  bool avx2 = false, avx_vnni = false, avx512_vnni = false, avx512_vbmi = false;

  Features() {
    unsigned a = 0, b = 0, c = 0, d = 0, saved = 0;
    auto has = [](unsigned word, int bit) { return (word >> bit & 1) != 0; };
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, 27) || !has(c, 28) || !has(c, 12)) return;  // OSXSAVE, AVX, FMA
    asm volatile("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    if ((saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;  // registers of 256 bits
    avx2 = has(b, 5);
    bool wide = (saved & 0xe6) == 0xe6;                                            // and of 512 bits
    bool avx512 = wide && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31);    // F, DQ, BW, VL
    avx512_vnni = avx512 && has(c, 11);
    avx512_vbmi = avx512_vnni && has(c, 1);
    avx_vnni = avx2 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 4);
  }
};
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
#if defined(__x86_64__) || defined(__i386__)
    [[maybe_unused]] const Features cpu;
#endif
#ifdef HAVE_avx512_vbmi
    if (cpu.avx512_vbmi) list[count++] = &kernels_avx512_vbmi;
#endif
#ifdef HAVE_avx512_vnni
    if (cpu.avx512_vnni) list[count++] = &kernels_avx512_vnni;
#endif
#ifdef HAVE_avx_vnni
    if (cpu.avx_vnni) list[count++] = &kernels_avx_vnni;
#endif
#ifdef HAVE_avx2
    if (cpu.avx2) list[count++] = &kernels_avx2;
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

#if defined(_WIN32)
void* allocate_aligned(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }
void free_aligned(void* memory) { _aligned_free(memory); }
#else
void* allocate_aligned(size_t alignment, size_t bytes) { return std::aligned_alloc(alignment, bytes); }
void free_aligned(void* memory) { std::free(memory); }
#endif

namespace {

struct Scratch {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Scratch() { free_aligned(memory); }

  void* of(size_t least) {
    if (bytes < least) {
      free_aligned(memory);
      bytes = 0;
      size_t rounded = (least + 4095) / 4096 * 4096;
      memory = allocate_aligned(4096, rounded);
      if (!memory) throw std::bad_alloc();
      bytes = rounded;
    }
    return memory;
  }
};

}  // namespace

void* scratch(size_t bytes) {
  static thread_local Scratch mine;
  return mine.of(bytes);
}

void* shared_scratch(size_t bytes) {
  static thread_local Scratch mine;
  return mine.of(bytes);
}
