// SPDX-License-Identifier: Apache-2.0
//
// Covariance matrices, or their inverses, from quaternions and scales, as torch sees them. The
// inverse of R S S R^T is R S^-1 S^-1 R^T: the same function at reciprocal scales.
#pragma once

#include <tuple>

#include "core/check.h"
#include "splat/project.h"

namespace fl::splat {

template <typename T>
struct CovarianceArgs {
  const T *quats, *scales;
  int64_t M;
  bool inverse;
};

template <typename T>
FL_HD Vec3<T> load_scale(const CovarianceArgs<T>& a, int64_t i) {
  const T* s = a.scales + 3 * i;
  return a.inverse ? Vec3<T>{T(1) / s[0], T(1) / s[1], T(1) / s[2]} : Vec3<T>{s[0], s[1], s[2]};
}

template <typename T>
FL_HD Quaternion<T> load_quaternion(const CovarianceArgs<T>& a, int64_t i) {
  const T* q = a.quats + 4 * i;
  return {q[0], q[1], q[2], q[3]};
}

template <typename T>
FL_HD void covariance_one(const CovarianceArgs<T>& a, int64_t i, T* matrices) {
  const Sym3<T> m = covariance(load_quaternion(a, i), load_scale(a, i));
  const T values[6] = {m.xx, m.xy, m.xz, m.yy, m.yz, m.zz};
  for (int k = 0; k < 6; ++k) matrices[6 * i + k] = values[k];
}

template <typename T>
FL_HD void covariance_one_backward(const CovarianceArgs<T>& a, const T* g_matrices, int64_t i,
                                   T* g_quats, T* g_scales) {
  const Vec3<T> scale = load_scale(a, i);
  const T* g = g_matrices + 6 * i;
  Quaternion<T> g_q;
  Vec3<T> g_s;
  covariance_vjp(load_quaternion(a, i), scale, Sym3<T>{g[0], g[1], g[2], g[3], g[4], g[5]}, g_q,
                 g_s);
  if (a.inverse)
    g_s = {-g_s.x * scale.x * scale.x, -g_s.y * scale.y * scale.y, -g_s.z * scale.z * scale.z};
  const T quat[4] = {g_q.w, g_q.x, g_q.y, g_q.z}, along[3] = {g_s.x, g_s.y, g_s.z};
  for (int k = 0; k < 4; ++k) g_quats[4 * i + k] = quat[k];
  for (int k = 0; k < 3; ++k) g_scales[3 * i + k] = along[k];
}

inline int64_t check_covariance(const Tensor& quats, const Tensor& scales, const char* op) {
  check_float(quats, op, "quats");
  check_shape(quats, {-1, 4}, op, "quats");
  check_shape(scales, {quats.size(0), 3}, op, "scales");
  check_dtype(scales, quats.scalar_type(), op, "scales");
  check_same_device(scales, quats, op, "scales");
  return quats.size(0);
}

// Six values a matrix: xx, xy, xz, yy, yz, zz.
template <typename Backend>
Tensor splat_covariance(Tensor quats, Tensor scales, bool inverse) {
  const int64_t M = check_covariance(quats, scales, "splat_covariance");
  dense_all(quats, scales);
  Tensor matrices = new_empty(quats, {M, 6});
  dispatch_float(quats, [&](auto zero) {
    using T = decltype(zero);
    Backend::forward(CovarianceArgs<T>{input<T>(quats), input<T>(scales), M, inverse},
                     output<T>(matrices), quats);
  });
  return matrices;
}

template <typename Backend>
std::tuple<Tensor, Tensor> splat_covariance_backward(Tensor quats, Tensor scales, bool inverse,
                                                     Tensor g_matrices) {
  const int64_t M = check_covariance(quats, scales, "splat_covariance_backward");
  check_shape(g_matrices, {M, 6}, "splat_covariance_backward", "g_matrices");
  dense_all(quats, scales, g_matrices);
  Tensor g_quats = new_empty(quats, {M, 4}), g_scales = new_empty(quats, {M, 3});
  dispatch_float(quats, [&](auto zero) {
    using T = decltype(zero);
    Backend::backward(CovarianceArgs<T>{input<T>(quats), input<T>(scales), M, inverse},
                      input<T>(g_matrices), output<T>(g_quats), output<T>(g_scales), quats);
  });
  return {g_quats, g_scales};
}

}  // namespace fl::splat
