// SPDX-License-Identifier: Apache-2.0
//
// The floating types that features come in. 16-bit types are storage: they are widened to float to
// be added up and rounded to nearest, ties to even, when stored. On the host both are done in
// integers without branches, so that compilers make vectors of them on every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace fl::sparse {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// What values of a type are added up in.
template <typename T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <typename T>
using Sum = typename Wide<T>::type;

namespace detail {

FL_HD float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FL_HD uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace detail

FL_HD float widen(float value) { return value; }
FL_HD double widen(double value) { return value; }
FL_HD float widen(BFloat16 value) {
  return detail::float_of_bits(static_cast<uint32_t>(value.bits) << 16);
}
FL_HD float widen(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  constexpr uint32_t bias = 112u << 23, infinite = 31u << 23, least_normal = 1u << 23;
  // Subnormal numbers: as if the leading one were there, which is then taken away.
  const float subnormal = detail::float_of_bits(magnitude + bias + least_normal) -
                          detail::float_of_bits(bias + least_normal);
  const uint32_t normal = magnitude + bias + (magnitude >= infinite ? bias : 0u);
  const uint32_t bits = magnitude < least_normal ? detail::bits_of_float(subnormal) : normal;
  return detail::float_of_bits(sign | bits);
#endif
}

FL_HD void narrow(float value, float& out) { out = value; }
FL_HD void narrow(double value, double& out) { out = value; }
FL_HD void narrow(float value, BFloat16& out) {
  const uint32_t bits = detail::bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out.bits = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
}
FL_HD void narrow(float value, Half& out) {
#if defined(__CUDA_ARCH__)
  out.bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t bits = detail::bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  constexpr uint32_t bias = 112u << 23, overflow = 143u << 23, least_normal = 113u << 23;
  const uint32_t normal = (magnitude - bias + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding one half puts the last bit of a subnormal number at the last bit of the sum.
  const uint32_t subnormal =
      detail::bits_of_float(detail::float_of_bits(magnitude) + 0.5f) - (126u << 23);
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < least_normal ? subnormal : normal;
  out.bits = static_cast<uint16_t>(sign | (magnitude >= overflow ? special : finite));
#endif
}

template <typename T>
FL_HD T narrow(Sum<T> value) {
  T out;
  narrow(value, out);
  return out;
}

}  // namespace fl::sparse
