// SPDX-License-Identifier: Apache-2.0
//
// CUDA's scalar functions for host compilers: bit casts, bit counting, fast maths, min / max. They
// need no thread, so CPU sources may use them too. Fast approximations are the exact functions
// here: an emulated kernel is as accurate as its formula. All are internal to each source file,
// because sources compiled for different instruction sets meet in one library.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fl {
template <typename To, typename From>
static inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast: the sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace fl

// clang-format off
static inline int __float_as_int(float x) { return fl::bit_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return fl::bit_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return fl::bit_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return fl::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return fl::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return fl::bit_cast<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
static inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
static inline int __mulhi(int a, int b) {
  return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return std::sqrt(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
// NaN becomes 0, as on the device.
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
static inline int __float2int_ru(float x) { return static_cast<int>(std::ceil(x)); }
static inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::nearbyint(x)); }
static inline unsigned __float2uint_rz(float x) { return static_cast<unsigned>(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

// glibc 2.42 brought its own rsqrt and rsqrtf.
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 42)
#define FL_LIBC_HAS_RSQRT
#endif
#endif
#ifndef FL_LIBC_HAS_RSQRT
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
#endif
static inline float norm3df(float x, float y, float z) { return std::sqrt(x * x + y * y + z * z); }
static inline float rnorm3df(float x, float y, float z) { return 1.0f / norm3df(x, y, z); }

// glibc's headers declare these very names without defining them, so they can only be macros.
#define __expf(x) ::std::exp(static_cast<float>(x))
#define __exp10f(x) ::std::pow(10.0f, static_cast<float>(x))
#define __logf(x) ::std::log(static_cast<float>(x))
#define __log2f(x) ::std::log2(static_cast<float>(x))
#define __log10f(x) ::std::log10(static_cast<float>(x))
#define __sinf(x) ::std::sin(static_cast<float>(x))
#define __cosf(x) ::std::cos(static_cast<float>(x))
#define __tanf(x) ::std::tan(static_cast<float>(x))
#define __powf(x, y) ::std::pow(static_cast<float>(x), static_cast<float>(y))
#define __sincosf(x, sine, cosine) ::sincosf(x, sine, cosine)

// The overloads that CUDA has, and no more: what is ambiguous there stays ambiguous here.
#define FL_MIN_MAX(result, A, B)                                                  \
  static inline result min(A a, B b) {                                            \
    return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a) \
                                                           : static_cast<result>(b); \
  }                                                                               \
  static inline result max(A a, B b) {                                            \
    return static_cast<result>(a) > static_cast<result>(b) ? static_cast<result>(a) \
                                                           : static_cast<result>(b); \
  }
FL_MIN_MAX(int, int, int)
FL_MIN_MAX(unsigned, unsigned, unsigned)
FL_MIN_MAX(unsigned, unsigned, int)
FL_MIN_MAX(unsigned, int, unsigned)
FL_MIN_MAX(long, long, long)
FL_MIN_MAX(unsigned long, unsigned long, unsigned long)
FL_MIN_MAX(long long, long long, long long)
FL_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef FL_MIN_MAX
static inline float min(float a, float b) { return std::fmin(a, b); }
static inline float max(float a, float b) { return std::fmax(a, b); }
static inline double min(double a, double b) { return std::fmin(a, b); }
static inline double max(double a, double b) { return std::fmax(a, b); }
static inline double min(float a, double b) { return std::fmin(static_cast<double>(a), b); }
static inline double max(float a, double b) { return std::fmax(static_cast<double>(a), b); }
static inline double min(double a, float b) { return std::fmin(a, static_cast<double>(b)); }
static inline double max(double a, float b) { return std::fmax(a, static_cast<double>(b)); }
// clang-format on
