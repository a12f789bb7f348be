// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the colour operators, checked once for both backends, and the camera centre.
#pragma once

#include "core/check.h"
#include "splat/shade.h"

namespace fl::splat {

struct ShadeSizes {
  int64_t B, C, N, K;
};

template <typename T>
struct ShadeArgs {
  int degree;
  const T *means, *viewmats, *coefficients;
  const int32_t* radii;  // null: every splat is visible
  int64_t B, C, N, K;
};

inline void check_degree(int64_t degree, int64_t K, const char* op) {
  STD_TORCH_CHECK(degree >= 0 && degree <= kMaxShDegree, op, ": degree: expected 0 to ",
                  kMaxShDegree, ", got ", degree);
  STD_TORCH_CHECK(K >= (degree + 1) * (degree + 1), op, ": coefficients: expected at least ",
                  (degree + 1) * (degree + 1), " bases for degree ", degree, ", got ", K);
}

inline ShadeSizes check_shade(int64_t degree, const Tensor& means, const Tensor& viewmats,
                              const Tensor& coefficients, const std::optional<Tensor>& radii,
                              const char* op) {
  check_float(means, op, "means");
  STD_TORCH_CHECK(means.dim() == 3 && viewmats.dim() == 4 && coefficients.dim() == 4, op,
                  ": expected means [B, N, 3], viewmats [B, C, 4, 4] and coefficients "
                  "[B, N, K, 3], got ",
                  shape_text(means), ", ", shape_text(viewmats), " and ", shape_text(coefficients));
  const ShadeSizes s{means.size(0), viewmats.size(1), means.size(1), coefficients.size(2)};
  check_shape(means, {s.B, s.N, 3}, op, "means");
  check_shape(viewmats, {s.B, s.C, 4, 4}, op, "viewmats");
  check_shape(coefficients, {s.B, s.N, s.K, 3}, op, "coefficients");
  check_dtype(viewmats, means.scalar_type(), op, "viewmats");
  check_dtype(coefficients, means.scalar_type(), op, "coefficients");
  check_same_device(viewmats, means, op, "viewmats");
  check_same_device(coefficients, means, op, "coefficients");
  if (radii.has_value()) {
    check_shape(*radii, {s.B, s.C, s.N, 2}, op, "radii");
    check_dtype(*radii, ScalarType::Int, op, "radii");
    check_same_device(*radii, means, op, "radii");
  }
  check_degree(degree, s.K, op);
  return s;
}

template <typename T>
ShadeArgs<T> shade_args(int64_t degree, const Tensor& means, const Tensor& viewmats,
                        const Tensor& coefficients, const std::optional<Tensor>& radii,
                        const ShadeSizes& s) {
  return {static_cast<int>(degree), input<T>(means), input<T>(viewmats), input<T>(coefficients),
          optional_input<int32_t>(radii), s.B, s.C, s.N, s.K};
}

struct HarmonicsSizes {
  int64_t M, K;
};

inline HarmonicsSizes check_harmonics(int64_t degree, const Tensor& dirs,
                                      const Tensor& coefficients,
                                      const std::optional<Tensor>& masks, const char* op) {
  check_float(dirs, op, "dirs");
  check_shape(dirs, {-1, 3}, op, "dirs");
  const int64_t M = dirs.size(0);
  check_shape(coefficients, {M, -1, 3}, op, "coefficients");
  check_dtype(coefficients, dirs.scalar_type(), op, "coefficients");
  check_same_device(coefficients, dirs, op, "coefficients");
  if (masks.has_value()) {
    check_shape(*masks, {M}, op, "masks");
    check_dtype(*masks, ScalarType::Bool, op, "masks");
    check_same_device(*masks, dirs, op, "masks");
  }
  check_degree(degree, coefficients.size(1), op);
  return {M, coefficients.size(1)};
}

// 1 / |v|, and 0 for the zero vector, whose colour then shows degree 0 alone.
template <typename T>
FL_HD T inverse_length(const Vec3<T>& v) {
  const T length2 = dot(v, v);
  return length2 > T(0) ? T(1) / std::sqrt(length2) : T(0);
}

// Centre -R^T t of a rigid world-to-camera matrix.
template <typename T>
FL_HD Vec3<T> camera_center(const T* v) {
  return {-(v[0] * v[3] + v[4] * v[7] + v[8] * v[11]), -(v[1] * v[3] + v[5] * v[7] + v[9] * v[11]),
          -(v[2] * v[3] + v[6] * v[7] + v[10] * v[11])};
}

template <typename T>
FL_HD void camera_center_vjp(const T* v, const Vec3<T>& g, T* g_v) {
  for (int r = 0; r < 3; ++r) {
    const T t = v[4 * r + 3];
    g_v[4 * r] = -t * g.x;
    g_v[4 * r + 1] = -t * g.y;
    g_v[4 * r + 2] = -t * g.z;
    g_v[4 * r + 3] = -(v[4 * r] * g.x + v[4 * r + 1] * g.y + v[4 * r + 2] * g.z);
  }
}

}  // namespace fl::splat
