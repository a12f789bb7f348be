// SPDX-License-Identifier: Apache-2.0
//
// Activations of a row of sums, for *_simd.cpp files. Those with an exponential or an error
// function are worked out sixteen at a time: such a row is padded to a multiple of that.
#pragma once

#include "core/simd.h"
#include "sparse/convolution.h"

namespace fl {
namespace FL_ISA {

using sparse::Activation;

// What is not a number stays so; exp16 takes what is within +-87.
FL_SIMD Float16 sigmoid16(Float16 x) {
  const Float16 within = min16(max16(x, splat16(-87.0f)), splat16(87.0f));
  return select(greater_equal(x, x), 1.0f / (1.0f + exp16(-within)), x);
}

// Abramowitz and Stegun, 7.1.26: within 1.5e-7.
FL_SIMD Float16 erf16(Float16 x) {
  const Float16 size = min16(max16(x, -x), splat16(9.0f));
  const Float16 t = 1.0f / (1.0f + 0.3275911f * size);
  Float16 p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Float16 y = 1.0f - p * t * exp16(-size * size);
  return select(greater_equal(x, splat16(0.0f)), y, -y);
}

FL_SIMD Float16 activate16(Activation kind, Float16 x) {
  switch (kind) {
    case Activation::silu:
      return x * sigmoid16(x);
    case Activation::gelu:
      return 0.5f * x * (1.0f + erf16(x * 0.707106781f));
    default:
      return sigmoid16(x);
  }
}

template <Activation kKind, typename A>
FL_SIMD void activate_row(A* row, int64_t n, A slope) {
  for (int64_t c = 0; c < n; ++c) row[c] = sparse::activate(kKind, row[c], slope);
}

template <typename A>
FL_SIMD void activate_smoothly(Activation kind, A* row, int64_t n) {
  if constexpr (sizeof(A) == sizeof(float)) {
    for (int64_t c = 0; c < n; c += kLanes) store16(row + c, activate16(kind, load16(row + c)));
  } else {
    for (int64_t c = 0; c < n; ++c) row[c] = sparse::activate(kind, row[c], A(0));
  }
}

template <typename A>
FL_SIMD void activate_any(Activation kind, A* row, int64_t n, A slope) {
  if (kind == Activation::relu)
    activate_row<Activation::relu>(row, n, slope);
  else if (kind == Activation::leaky_relu)
    activate_row<Activation::leaky_relu>(row, n, slope);
  else if (kind != Activation::none)
    activate_smoothly(kind, row, n);
}

// dy/dz of those.
FL_SIMD Float16 derivative16(Activation kind, Float16 z) {
  if (kind == Activation::gelu) {
    const Float16 size = min16(max16(z, -z), splat16(13.0f));
    const Float16 density = 0.398942280f * exp16(-0.5f * size * size);
    return 0.5f * (1.0f + erf16(z * 0.707106781f)) + z * density;
  }
  const Float16 y = sigmoid16(z);
  return kind == Activation::silu ? y * (1.0f + z * (1.0f - y)) : y * (1.0f - y);
}

}  // namespace FL_ISA
}  // namespace fl
