// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of covariance matrices, or their inverses, from quaternions and scales. The inverse
// of R S S R^T is R S^-1 S^-1 R^T: the same function at reciprocal scales.
#include <tuple>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/args.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 4096;

int64_t check_covariance(const Tensor& quats, const Tensor& scales, const char* op) {
  check_float(quats, op, "quats");
  check_shape(quats, {-1, 4}, op, "quats");
  check_shape(scales, {quats.size(0), 3}, op, "scales");
  check_dtype(scales, quats.scalar_type(), op, "scales");
  check_same_device(scales, quats, op, "scales");
  return quats.size(0);
}

template <typename T>
Vec3<T> load_scale(const T* s, bool inverse) {
  return inverse ? Vec3<T>{T(1) / s[0], T(1) / s[1], T(1) / s[2]} : Vec3<T>{s[0], s[1], s[2]};
}

// Six values a matrix: xx, xy, xz, yy, yz, zz.
Tensor splat_covariance_cpu(Tensor quats, Tensor scales, bool inverse) {
  const int64_t M = check_covariance(quats, scales, "splat_covariance");
  dense_all(quats, scales);
  Tensor matrices = new_empty(quats, {M, 6});
  dispatch_float(quats, [&](auto zero) {
    using T = decltype(zero);
    const T *q = input<T>(quats), *s = input<T>(scales);
    T* out = output<T>(matrices);
    parallel_for(0, M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Sym3<T> m = covariance(Quaternion<T>{q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]},
                                     load_scale(s + 3 * i, inverse));
        const T values[6] = {m.xx, m.xy, m.xz, m.yy, m.yz, m.zz};
        for (int k = 0; k < 6; ++k) out[6 * i + k] = values[k];
      }
    });
  });
  return matrices;
}

std::tuple<Tensor, Tensor> splat_covariance_backward_cpu(Tensor quats, Tensor scales, bool inverse,
                                                         Tensor g_matrices) {
  const int64_t M = check_covariance(quats, scales, "splat_covariance_backward");
  check_shape(g_matrices, {M, 6}, "splat_covariance_backward", "g_matrices");
  dense_all(quats, scales, g_matrices);
  Tensor g_quats = new_empty(quats, {M, 4}), g_scales = new_empty(quats, {M, 3});
  dispatch_float(quats, [&](auto zero) {
    using T = decltype(zero);
    const T *q = input<T>(quats), *s = input<T>(scales), *g = input<T>(g_matrices);
    T *out_q = output<T>(g_quats), *out_s = output<T>(g_scales);
    parallel_for(0, M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Vec3<T> scale = load_scale(s + 3 * i, inverse);
        const Sym3<T> g_m{g[6 * i],     g[6 * i + 1], g[6 * i + 2],
                          g[6 * i + 3], g[6 * i + 4], g[6 * i + 5]};
        Quaternion<T> g_q;
        Vec3<T> g_s;
        covariance_vjp(Quaternion<T>{q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3]}, scale,
                       g_m, g_q, g_s);
        if (inverse)
          g_s = {-g_s.x * scale.x * scale.x, -g_s.y * scale.y * scale.y,
                 -g_s.z * scale.z * scale.z};
        const T quat[4] = {g_q.w, g_q.x, g_q.y, g_q.z};
        for (int k = 0; k < 4; ++k) out_q[4 * i + k] = quat[k];
        out_s[3 * i] = g_s.x;
        out_s[3 * i + 1] = g_s.y;
        out_s[3 * i + 2] = g_s.z;
      }
    });
  });
  return {g_quats, g_scales};
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_covariance", TORCH_BOX(&splat_covariance_cpu));
  m.impl("splat_covariance_backward", TORCH_BOX(&splat_covariance_backward_cpu));
}

}  // namespace fl::splat
