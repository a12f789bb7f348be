// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the noise operator, checked once for both backends.
#pragma once

#include "core/check.h"
#include "training/noise.h"

namespace fl::training {

inline void check_noise(const Tensor& means, const Tensor& quats, const Tensor& log_scales,
                        const Tensor& opacity_logits) {
  const char* op = "splat_noise_";
  check_float(means, op, "means");
  check_shape(means, {-1, 3}, op, "means");
  const int64_t n = means.size(0);
  check_shape(quats, {n, 4}, op, "quats");
  check_shape(log_scales, {n, 3}, op, "log_scales");
  check_shape(opacity_logits, {n}, op, "opacity_logits");
  const auto same = [&](const Tensor& tensor, const char* name) {
    check_dtype(tensor, means.scalar_type(), op, name);
    check_same_device(tensor, means, op, name);
  };
  same(quats, "quats");
  same(log_scales, "log_scales");
  same(opacity_logits, "opacity_logits");
  STD_TORCH_CHECK(means.is_contiguous(), op,
                  ": means: expected a contiguous tensor, because it is updated in place");
}

template <typename T>
NoiseArgs<T> noise_args(const Tensor& means, const Tensor& quats, const Tensor& log_scales,
                        const Tensor& opacity_logits, double strength, int64_t seed, int64_t step) {
  return {output<T>(means),           input<T>(quats),          input<T>(log_scales),
          input<T>(opacity_logits),   static_cast<T>(strength), static_cast<uint64_t>(seed),
          static_cast<uint64_t>(step)};
}

}  // namespace fl::training
