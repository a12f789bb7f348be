// SPDX-License-Identifier: Apache-2.0
//
// As many floats at a time as one register of the instruction set holds, for *_simd.cpp files whose
// results do not depend on that number: 16 of AVX-512, 8 of AVX2, 4 elsewhere. (simd.h is for those
// that must see 16 on every level.) Arithmetic is written with the compiler's vector types.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/macros.h"

#ifndef FL_ISA
#error "lanes.h belongs in *_simd.cpp files, which CMake compiles once a level with FL_ISA set"
#endif

#ifndef FL_SIMD
#define FL_SIMD static inline __attribute__((always_inline))
#endif

namespace fl {
namespace FL_ISA {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));

FL_SIMD Floats splat(float x) { return Floats{} + x; }

template <typename Vector, typename Scalar>
FL_SIMD Vector load(const Scalar* p) {
  static_assert(sizeof(Scalar) * kWidth == sizeof(Vector), "one scalar a lane");
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename Vector, typename Scalar>
FL_SIMD void store(Scalar* p, Vector v) {
  static_assert(sizeof(Scalar) * kWidth == sizeof(Vector), "one scalar a lane");
  std::memcpy(p, &v, sizeof(v));
}

FL_SIMD Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
FL_SIMD Ints truncated(Floats v) { return __builtin_convertvector(v, Ints); }

#if defined(__AVX512F__) && defined(__AVX512DQ__)

// A set of lanes. Comparisons with what is not a number are false.
struct Mask {
  __mmask16 bits;
};
FL_SIMD Mask mask_of(uint32_t bits) { return {static_cast<__mmask16>(bits)}; }
FL_SIMD uint32_t bits_of(Mask m) { return m.bits; }
FL_SIMD Mask operator&(Mask a, Mask b) { return mask_of(a.bits & b.bits); }
FL_SIMD Mask operator|(Mask a, Mask b) { return mask_of(a.bits | b.bits); }
FL_SIMD Mask and_not(Mask a, Mask b) { return mask_of(a.bits & ~b.bits); }
FL_SIMD Mask less(Floats a, Floats b) {
  return {_mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_LT_OQ)};
}
FL_SIMD Mask less_equal(Floats a, Floats b) {
  return {_mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_LE_OQ)};
}
FL_SIMD Mask any_bit(Ints v) {
  return {_mm512_test_epi32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v))};
}
FL_SIMD Ints select(Mask m, Ints a, Ints b) {
  return reinterpret_cast<Ints>(
      _mm512_mask_blend_epi32(m.bits, reinterpret_cast<__m512i>(b), reinterpret_cast<__m512i>(a)));
}
FL_SIMD Floats select(Mask m, Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm512_mask_blend_ps(m.bits, reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
}
// a < b ? a : b, and a > b ? a : b.
FL_SIMD Floats lesser(Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
FL_SIMD Floats greater(Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
// table[at], and 0 in lanes out of the mask, whose index is not looked at.
FL_SIMD Ints gather(Mask m, const uint32_t* table, Ints at) {
  return reinterpret_cast<Ints>(_mm512_mask_i32gather_epi32(
      _mm512_setzero_si512(), m.bits, reinterpret_cast<__m512i>(at), table, 4));
}
// The lanes of the mask, moved to the lowest lanes, and back from there; other lanes are zero.
FL_SIMD Ints compress(Mask m, Ints v) {
  return reinterpret_cast<Ints>(_mm512_maskz_compress_epi32(m.bits, reinterpret_cast<__m512i>(v)));
}
FL_SIMD Ints expand(Mask m, Ints v) {
  return reinterpret_cast<Ints>(_mm512_maskz_expand_epi32(m.bits, reinterpret_cast<__m512i>(v)));
}

#else

struct Mask {
  Ints lanes;
};
FL_SIMD Mask mask_of(uint32_t bits) {
#if defined(__AVX2__)
  const Ints lane_bit = {1, 2, 4, 8, 16, 32, 64, 128};
#else
  const Ints lane_bit = {1, 2, 4, 8};
#endif
  return {((Ints{} + static_cast<int32_t>(bits)) & lane_bit) != 0};
}
FL_SIMD uint32_t bits_of(Mask m) {
#if defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(m.lanes)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(m.lanes)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= (m.lanes[i] != 0 ? 1u : 0u) << i;
  return bits;
#endif
}
FL_SIMD Mask operator&(Mask a, Mask b) { return {a.lanes & b.lanes}; }
FL_SIMD Mask operator|(Mask a, Mask b) { return {a.lanes | b.lanes}; }
FL_SIMD Mask and_not(Mask a, Mask b) { return {a.lanes & ~b.lanes}; }
FL_SIMD Mask less(Floats a, Floats b) { return {a < b}; }
FL_SIMD Mask less_equal(Floats a, Floats b) { return {a <= b}; }
FL_SIMD Mask any_bit(Ints v) { return {v != 0}; }
FL_SIMD Ints select(Mask m, Ints a, Ints b) { return m.lanes ? a : b; }
FL_SIMD Floats select(Mask m, Floats a, Floats b) { return m.lanes ? a : b; }
FL_SIMD Floats lesser(Floats a, Floats b) { return a < b ? a : b; }
FL_SIMD Floats greater(Floats a, Floats b) { return a > b ? a : b; }
FL_SIMD Ints gather(Mask m, const uint32_t* table, Ints at) {
#if defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_mask_i32gather_epi32(
      _mm256_setzero_si256(), reinterpret_cast<const int*>(table), reinterpret_cast<__m256i>(at),
      reinterpret_cast<__m256i>(m.lanes), 4));
#else
  const Ints inside = at & m.lanes;
  Ints found;
  for (int i = 0; i < kWidth; ++i) found[i] = static_cast<int32_t>(table[inside[i]]);
  return found & m.lanes;
#endif
}
FL_SIMD Ints compress(Mask m, Ints v) {
  int32_t from[kWidth], to[kWidth] = {};
  store(from, v);
  int n = 0;
  for (uint32_t bits = bits_of(m); bits != 0; bits &= bits - 1) to[n++] = from[__builtin_ctz(bits)];
  return load<Ints>(to);
}
FL_SIMD Ints expand(Mask m, Ints v) {
  int32_t from[kWidth], to[kWidth] = {};
  store(from, v);
  int n = 0;
  for (uint32_t bits = bits_of(m); bits != 0; bits &= bits - 1) to[__builtin_ctz(bits)] = from[n++];
  return load<Ints>(to);
}

#endif

}  // namespace FL_ISA
}  // namespace fl
