// SPDX-License-Identifier: Apache-2.0
//
// Sixteen floats at a time, for *_simd.cpp files: one AVX-512 register, two of AVX2, or four of
// SSE. Arithmetic is written with the compiler's vector types; what they lack (lane masks,
// reductions, exp) is here. Everything lives in the namespace FL_ISA of the level being compiled.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef FL_ISA
#error "simd.h belongs in *_simd.cpp files, which CMake compiles once a level with FL_ISA set"
#endif

#define FL_SIMD static inline __attribute__((always_inline))

namespace fl {
namespace FL_ISA {

constexpr int kLanes = 16;

typedef float Float16 __attribute__((vector_size(64), aligned(64)));
typedef int32_t Int16 __attribute__((vector_size(64), aligned(64)));

FL_SIMD Float16 splat16(float x) { return Float16{} + x; }

FL_SIMD Float16 load16(const float* p) {
  Float16 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

FL_SIMD void store16(float* p, Float16 v) { std::memcpy(p, &v, sizeof(v)); }

#if defined(__AVX512F__) && defined(__AVX512DQ__)

struct Mask16 {
  __mmask16 bits;
};
FL_SIMD Mask16 mask_from_bits(uint32_t bits) { return {static_cast<__mmask16>(bits)}; }
FL_SIMD Mask16 operator&(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.bits & b.bits)}; }
FL_SIMD Mask16 and_not(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.bits & ~b.bits)}; }
FL_SIMD uint32_t bits_of(Mask16 m) { return m.bits; }
FL_SIMD Mask16 greater_equal(Float16 a, Float16 b) {
  return {
      _mm512_cmp_ps_mask(reinterpret_cast<__m512&>(a), reinterpret_cast<__m512&>(b), _CMP_GE_OQ)};
}
FL_SIMD Mask16 less_equal(Float16 a, Float16 b) { return greater_equal(b, a); }
FL_SIMD Float16 select(Mask16 m, Float16 a, Float16 b) {
  __m512 r =
      _mm512_mask_blend_ps(m.bits, reinterpret_cast<__m512&>(b), reinterpret_cast<__m512&>(a));
  return reinterpret_cast<Float16&>(r);
}
FL_SIMD Float16 keep(Mask16 m, Float16 a) {
  __m512 r = _mm512_maskz_mov_ps(m.bits, reinterpret_cast<__m512&>(a));
  return reinterpret_cast<Float16&>(r);
}
FL_SIMD Float16 min16(Float16 a, Float16 b) {
  __m512 r = _mm512_min_ps(reinterpret_cast<__m512&>(a), reinterpret_cast<__m512&>(b));
  return reinterpret_cast<Float16&>(r);
}
FL_SIMD Float16 max16(Float16 a, Float16 b) {
  __m512 r = _mm512_max_ps(reinterpret_cast<__m512&>(a), reinterpret_cast<__m512&>(b));
  return reinterpret_cast<Float16&>(r);
}
FL_SIMD float sum16(Float16 v) { return _mm512_reduce_add_ps(reinterpret_cast<__m512&>(v)); }

#else

struct Mask16 {
  Int16 lanes;
};
FL_SIMD Mask16 mask_from_bits(uint32_t bits) {
  const Int16 lane_bit = {1,   2,   4,    8,    16,   32,   64,    128,
                          256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  return {((Int16{} + static_cast<int32_t>(bits)) & lane_bit) != 0};
}
FL_SIMD Mask16 operator&(Mask16 a, Mask16 b) { return {a.lanes & b.lanes}; }
FL_SIMD Mask16 and_not(Mask16 a, Mask16 b) { return {a.lanes & ~b.lanes}; }
FL_SIMD uint32_t bits_of(Mask16 m) {
#if defined(__AVX2__)
  __m256 half[2];
  std::memcpy(half, &m.lanes, sizeof(half));
  return static_cast<uint32_t>(_mm256_movemask_ps(half[0])) |
         static_cast<uint32_t>(_mm256_movemask_ps(half[1])) << 8;
#elif defined(__SSE2__)
  __m128 quarter[4];
  std::memcpy(quarter, &m.lanes, sizeof(quarter));
  return static_cast<uint32_t>(_mm_movemask_ps(quarter[0])) |
         static_cast<uint32_t>(_mm_movemask_ps(quarter[1])) << 4 |
         static_cast<uint32_t>(_mm_movemask_ps(quarter[2])) << 8 |
         static_cast<uint32_t>(_mm_movemask_ps(quarter[3])) << 12;
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (m.lanes[i] != 0 ? 1u : 0u) << i;
  return bits;
#endif
}
FL_SIMD Mask16 greater_equal(Float16 a, Float16 b) { return {a >= b}; }
FL_SIMD Mask16 less_equal(Float16 a, Float16 b) { return {a <= b}; }
FL_SIMD Float16 select(Mask16 m, Float16 a, Float16 b) { return m.lanes ? a : b; }
FL_SIMD Float16 keep(Mask16 m, Float16 a) {
  return reinterpret_cast<Float16>(reinterpret_cast<Int16>(a) & m.lanes);
}
FL_SIMD Float16 min16(Float16 a, Float16 b) { return a < b ? a : b; }
FL_SIMD Float16 max16(Float16 a, Float16 b) { return a > b ? a : b; }
// The order of _mm512_reduce_add_ps, so that all levels round alike.
FL_SIMD float sum16(Float16 v) {
  float x[16];
  std::memcpy(x, &v, sizeof(v));
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) x[i] += x[i + width];
  return x[0];
}

#endif

// e^x for x in [-87, 88]; relative error below 2e-7. Cephes' polynomial after 2^n splitting.
FL_SIMD Float16 exp16(Float16 x) {
  const Float16 scaled = x * 1.44269504f;
  const Float16 shifted = scaled + 12582912.0f;  // 1.5 * 2^23 rounds to an integer
  const Float16 n = shifted - 12582912.0f;
  const Float16 f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Float16 p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.0f;
  const Int16 power = (reinterpret_cast<Int16>(shifted) << 23) + 0x3f800000;
  return p * reinterpret_cast<Float16>(power);
}

}  // namespace FL_ISA
}  // namespace fl
