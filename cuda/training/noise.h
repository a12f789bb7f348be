// SPDX-License-Identifier: Apache-2.0
//
// The noise that moves splats in 3DGS-MCMC (Kheradmand et al. 2024, equation 10): a normal draw
// through the splat's covariance, faded out as the splat becomes opaque.
#pragma once

#include "core/math.h"
#include "core/random.h"

namespace fl::training {

// sigmoid(100 (0.005 - opacity)); 0 above an opacity of 0.2, where it is below 1e-8.
template <typename T>
FL_HD T noise_fade(T opacity_logit) {
  const T opacity = T(1) / (T(1) + std::exp(-opacity_logit));
  // NaN goes the way of the opaque: nothing moves.
  if (!(opacity < T(0.2))) return T(0);
  return T(1) / (T(1) + std::exp(T(100) * (opacity - T(0.005))));
}

// R S^2 R^T n
template <typename T>
FL_HD Vec3<T> through_covariance(const Quaternion<T>& q, const Vec3<T>& log_scales,
                                 const Vec3<T>& n) {
  const Mat3<T> r = rotation_from_quaternion(q);
  const Vec3<T> local = multiply_transposed(r, n);
  return multiply(
      r, Vec3<T>{std::exp(T(2) * log_scales.x) * local.x, std::exp(T(2) * log_scales.y) * local.y,
                 std::exp(T(2) * log_scales.z) * local.z});
}

template <typename T>
struct NoiseArgs {
  T* means;
  const T *quats, *log_scales, *opacity_logits;
  T strength;
  uint64_t seed, step;
};

template <typename T>
FL_HD void add_noise(const NoiseArgs<T>& a, int64_t i) {
  const T amount = a.strength * noise_fade(a.opacity_logits[i]);
  if (amount == T(0)) return;
  const Random4 bits = philox(a.seed, static_cast<uint64_t>(i), a.step);
  T n[4];
  normals_from_bits(bits.v[0], bits.v[1], n[0], n[1]);
  normals_from_bits(bits.v[2], bits.v[3], n[2], n[3]);
  const T *q = a.quats + 4 * i, *s = a.log_scales + 3 * i;
  const Vec3<T> moved = through_covariance(Quaternion<T>{q[0], q[1], q[2], q[3]},
                                           Vec3<T>{s[0], s[1], s[2]}, Vec3<T>{n[0], n[1], n[2]});
  a.means[3 * i] += amount * moved.x;
  a.means[3 * i + 1] += amount * moved.y;
  a.means[3 * i + 2] += amount * moved.z;
}

}  // namespace fl::training
