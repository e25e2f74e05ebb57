// Vector types and the operations that differ between instruction sets.
//
// GCC and Clang have vectors of any size, with + - * / and comparisons on every CPU. Defined here, once for each
// instruction set, is what has no operator: the product of bytes, the fused multiply-add, max and min. A file that
// includes this header is compiled once for each set, with the flags that build.py lists.
//
// Nothing here may have external linkage, and the kernels must not use inline functions of the standard library: the
// linker keeps one copy of such a function, possibly the one for another CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512VNNI__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));

INLINE Ints load(const void* from) {
  Ints value;
  memcpy(&value, from, sizeof value);
  return value;
}
INLINE void store(void* to, Ints value) { memcpy(to, &value, sizeof value); }
INLINE Ints all(int32_t value) { return value - Ints{}; }
INLINE Floats all(float value) { return value - Floats{}; }
INLINE Floats numbers(Ints value) { return __builtin_convertvector(value, Floats); }

// Four numbers in each quarter of a vector, and one of them in all lanes: one load in place of four.
INLINE Ints load_four(const void* from) {
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)from));
#elif defined(__AVX2__)
  return (Ints)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)from));
#else
  return load(from);
#endif
}
template <int index>
INLINE Ints one_of(Ints four) {
#if defined(__AVX512VNNI__)
  return (Ints)_mm512_shuffle_epi32((__m512i)four, (_MM_PERM_ENUM)(index * 0x55));
#elif defined(__AVX2__)
  return (Ints)_mm256_shuffle_epi32((__m256i)four, index * 0x55);
#else
  return all(four[index]);
#endif
}
// Four numbers, also by one load: compilers would prefer four, but loads are what sparse products have most of.
INLINE uint64_t load_offsets(const uint16_t* from) {
  uint64_t four;
  memcpy(&four, from, 8);
  asm("" : "+r"(four));
  return four;
}

// dot(sums, x, w): to each lane's sum, add the products of its four bytes of x (uint8) and of w (int8). Exact.
// Where only int8 can be multiplied, x is taken kShift lower: sums are then those of (x - kShift) * w.
// dot_of_fitting: the same, where the sum of two products of adjacent weights fits in 16 bits (block_weight.h).
#if defined(__AVX512VNNI__)
constexpr int kShift = 0;
INLINE Ints dot(Ints sums, Ints x, Ints w) { return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)x, (__m512i)w); }
INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
constexpr int kShift = 0;
#if defined(__AVXVNNI__)
INLINE Ints dot(Ints sums, Ints x, Ints w) {
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)x, (__m256i)w);
}
#else
#define ADDS_PAIRS
INLINE Ints dot_of_fitting(Ints sums, Ints x, Ints w) {
  __m256i pairs = _mm256_maddubs_epi16((__m256i)x, (__m256i)w);
  return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
// maddubs adds two products in 16 bits, where those of any weights overflow. Even and odd bytes, widened first, do not.
INLINE Ints dot(Ints sums, Ints x, Ints w) {
  __m256i even = _mm256_and_si256((__m256i)x, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16((__m256i)x, 8);
  __m256i even_w = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)w, 8), 8), odd_w = _mm256_srai_epi16((__m256i)w, 8);
  return sums + ((Ints)_mm256_madd_epi16(even, even_w) + (Ints)_mm256_madd_epi16(odd, odd_w));
}
#endif
INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int kShift = 128;
INLINE Ints dot(Ints sums, Ints x, Ints w) {
  return (Ints)vdotq_s32((int32x4_t)sums, veorq_s8((int8x16_t)x, vdupq_n_s8(-128)), (int8x16_t)w);
}
INLINE Floats fma(Floats a, Floats b, Floats c) {
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
#else
constexpr int kShift = 0;
INLINE Ints dot(Ints sums, Ints x, Ints w) {
  for (int shift = 0; shift < 32; shift += 8) {
    Ints byte = (Ints)(((Words)x >> shift) & 255u);
    sums += byte * ((Ints)((Words)w << (24 - shift)) >> 24);
  }
  return sums;
}
INLINE Floats fma(Floats a, Floats b, Floats c) {
  for (int lane = 0; lane < kLanes; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return c;
}
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
#endif
#ifdef ADDS_PAIRS
constexpr bool kAddsPairs = true;
#else
constexpr bool kAddsPairs = false;
INLINE Ints dot_of_fitting(Ints sums, Ints x, Ints w) { return dot(sums, x, w); }
#endif

// Of two rows of a matrix, exchange the upper halves of the first's and the lower halves of the second's 2 * step
// lanes.
template <int step>
INLINE void exchange(Ints& a, Ints& b) {
  Ints low, high;
  for (int lane = 0; lane < kLanes; lane++) {
    low[lane] = lane & step ? kLanes + lane - step : lane;
    high[lane] = lane & step ? kLanes + lane : lane + step;
  }
#if defined(__clang__)
  Ints first, second;
  for (int lane = 0; lane < kLanes; lane++) {
    first[lane] = lane & step ? b[lane - step] : a[lane];
    second[lane] = lane & step ? b[lane] : a[lane + step];
  }
#else
  Ints first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
#endif
  a = first;
  b = second;
}

template <int step>
INLINE void exchange_rows(Ints* rows, int count) {
  for (int row = 0; row < count; row++)
    if (!(row & step)) exchange<step>(rows[row], rows[row + step]);
}

// Transposes a square of lanes.
INLINE void transpose(Ints rows[kLanes]) {
  exchange_rows<1>(rows, kLanes);
  exchange_rows<2>(rows, kLanes);
  if (kLanes > 4) exchange_rows<kLanes == 4 ? 1 : 4>(rows, kLanes);
  if (kLanes > 8) exchange_rows<kLanes == 16 ? 8 : 1>(rows, kLanes);
}

// Quantizes as QuantizeLinear does: x / scale, limited, rounded half to even, plus zero.
// The quotient is exact: times the reciprocal, corrected once by what is left (Markstein 1990), at a third of the time.
struct Quantizer {
  Floats scale, reciprocal, low, high;
  Ints zero;
};
INLINE Quantizer quantizer(const QuantParams& params) {
  return {all(params.scale), all(params.reciprocal), all(params.low), all(params.high), all(params.zero - 0x4B400000)};
}
INLINE Ints quantize(Floats x, const Quantizer& params) {
  x = smaller(larger(x, params.low), params.high);
  Floats quotient = x * params.reciprocal;
  quotient = fma(fma(-quotient, params.scale, x), params.reciprocal, quotient);
  // Adding 1.5 * 2**23 leaves no bits for a fraction: the sum's last bits are the rounded integer.
  return (Ints)(quotient + 12582912.0f) + params.zero;
}

// e**x for x <= 0, to 1e-7 of it; not below 1e-38. Own coefficients, least maximum of the relative error.
INLINE Floats exp_negative(Floats x) {
  x = larger(x, all(-87.0f));
  Floats shifted = fma(x, all(1.44269504f), all(12582912.0f)), power = shifted - 12582912.0f;
  Floats rest = fma(power, all(-0.693145752f), x);
  rest = fma(power, all(-1.42860677e-6f), rest);
  Floats sum = all(0.00138131448f);
  sum = fma(sum, rest, all(0.00836941879f));
  sum = fma(sum, rest, all(0.041668456f));
  sum = fma(sum, rest, all(0.166665152f));
  sum = fma(sum, rest, all(0.49999994f));
  sum = fma(sum, rest * rest, rest) + 1.0f;
  return (Floats)((Ints)sum + (Ints)((Words)(Ints)shifted << 23));
}

// x * (1 + erf(x / sqrt 2)) / 2 = max(x, 0) - t Phi(-t), where t = |x| and Phi(-t) = erfc(t / sqrt 2) / 2. The eighth
// root of Phi(-t) is nearly a polynomial, whose power costs three products in place of a division. Own coefficients:
// least squares over t from 0 to 5.6, weighted anew in each round by the error of t Phi(-t) until that is level (Lawson
// 1961), at 4e-9. With the rounding of fp32 the result is within 1.5e-7 + 1e-7 of itself; below -8 it is -2e-14.
INLINE Floats gelu(Floats x) {
  Floats t = smaller((Floats)((Ints)x & 0x7fffffff), all(8.0f));
  Floats root = all(-2.91861255e-07f);
  root = fma(root, t, all(7.41819758e-06f));
  root = fma(root, t, all(-5.98765546e-05f));
  root = fma(root, t, all(3.30497896e-05f));
  root = fma(root, t, all(0.00150667143f));
  root = fma(root, t, all(-0.000674395298f));
  root = fma(root, t, all(-0.0319266841f));
  root = fma(root, t, all(-0.0914577842f));
  root = fma(root, t, all(0.917004049f));
  Floats square = root * root, fourth = square * square;
  return fma(-(fourth * fourth), t, larger(all(0.0f), x));
}
