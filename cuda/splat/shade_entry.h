// SPDX-License-Identifier: Apache-2.0
//
// The colour operators as torch sees them: checks, outputs and types, with the work left to a
// Backend, CPU or CUDA; and what both backends do for one Gaussian.
#pragma once

#include <tuple>

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
  return {static_cast<int>(degree),
          input<T>(means),
          input<T>(viewmats),
          input<T>(coefficients),
          optional_input<int32_t>(radii),
          s.B,
          s.C,
          s.N,
          s.K};
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

template <typename T>
struct ShadeGradients {
  const T *colors, *g_colors;
  bool needs_positions, needs_cameras;  // cameras only together with positions
  T *means, *viewmats, *coefficients;
};

template <typename T>
struct HarmonicsArgs {
  int degree;
  const T *dirs, *coefficients;
  const bool* masks;
  int64_t M, K;
};

template <typename T>
HarmonicsArgs<T> harmonics_args(int64_t degree, const Tensor& dirs, const Tensor& coefficients,
                                const std::optional<Tensor>& masks, const HarmonicsSizes& s) {
  return {static_cast<int>(degree),
          input<T>(dirs),
          input<T>(coefficients),
          optional_input<bool>(masks),
          s.M,
          s.K};
}

template <typename T>
FL_HD bool is_shown(const ShadeArgs<T>& a, int64_t o) {
  return a.radii == nullptr || (a.radii[2 * o] > 0 && a.radii[2 * o + 1] > 0);
}

// Colour of one Gaussian seen along `offset`, before 0.5 is added.
template <typename T>
FL_HD Vec3<T> harmonic_color(int degree, const Vec3<T>& offset, const T* coefficients) {
  T bases[kMaxShBases];
  const T inverse = inverse_length(offset);
  sh_bases(degree, offset.x * inverse, offset.y * inverse, offset.z * inverse, bases);
  Vec3<T> rgb{T(0), T(0), T(0)};
  const int count = (degree + 1) * (degree + 1);
  for (int k = 0; k < count; ++k)
    rgb = rgb +
          bases[k] * Vec3<T>{coefficients[3 * k], coefficients[3 * k + 1], coefficients[3 * k + 2]};
  return rgb;
}

// Gradient of the viewing offset alone.
template <typename T>
FL_HD Vec3<T> harmonic_direction_vjp(int degree, const Vec3<T>& offset, const T* coefficients,
                                     const Vec3<T>& g) {
  const int count = (degree + 1) * (degree + 1);
  const T inverse = inverse_length(offset);
  const Vec3<T> unit = inverse * offset;
  T g_bases[kMaxShBases] = {};
  for (int k = 0; k < count; ++k)
    g_bases[k] =
        coefficients[3 * k] * g.x + coefficients[3 * k + 1] * g.y + coefficients[3 * k + 2] * g.z;
  return normalise_vjp(unit, inverse, sh_bases_vjp(degree, unit.x, unit.y, unit.z, g_bases));
}

// Writes (or adds) the gradients of one direction's coefficients; returns the direction's.
template <typename T>
FL_HD Vec3<T> harmonic_color_vjp(int degree, int64_t K, const Vec3<T>& offset,
                                 const T* coefficients, const Vec3<T>& g, bool add,
                                 bool needs_direction, T* g_coefficients) {
  const int count = (degree + 1) * (degree + 1);
  const T inverse = inverse_length(offset);
  // First, because g_coefficients may lie where the coefficients do.
  const Vec3<T> g_offset = needs_direction ? harmonic_direction_vjp(degree, offset, coefficients, g)
                                           : Vec3<T>{T(0), T(0), T(0)};
  T bases[kMaxShBases];
  sh_bases(degree, offset.x * inverse, offset.y * inverse, offset.z * inverse, bases);
  for (int k = 0; k < count; ++k) {
    T* own = g_coefficients + 3 * k;
    const Vec3<T> value = bases[k] * g;
    own[0] = add ? own[0] + value.x : value.x;
    own[1] = add ? own[1] + value.y : value.y;
    own[2] = add ? own[2] + value.z : value.z;
  }
  if (!add)
    for (int64_t k = 3 * count; k < 3 * K; ++k) g_coefficients[k] = T(0);
  return g_offset;
}

// Where the colour was clamped at zero nothing flows back.
template <typename T>
FL_HD Vec3<T> color_gradient(const ShadeGradients<T>& g, int64_t o) {
  return {g.colors[3 * o] > T(0) ? g.g_colors[3 * o] : T(0),
          g.colors[3 * o + 1] > T(0) ? g.g_colors[3 * o + 1] : T(0),
          g.colors[3 * o + 2] > T(0) ? g.g_colors[3 * o + 2] : T(0)};
}

// One Gaussian's gradient over its cameras; camera(view, g) receives that of the viewing offset.
// Its coefficients and their gradient are rows of K bases, one and the same row if there is only
// one camera.
template <typename T, typename Camera>
FL_HD void shade_one_backward(const ShadeArgs<T>& a, const ShadeGradients<T>& g, int64_t i,
                              const T* coefficients, T* g_own, int64_t K, const Camera& camera) {
  const int64_t b = i / a.N, n = i % a.N;
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  Vec3<T> g_mean{T(0), T(0), T(0)};
  bool seen = false;
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t view = b * a.C + c, o = view * a.N + n;
    if (!is_shown(a, o)) continue;
    const Vec3<T> g_rgb = color_gradient(g, o);
    const Vec3<T> g_offset =
        harmonic_color_vjp(a.degree, K, mean - camera_center(a.viewmats + 16 * view), coefficients,
                           g_rgb, seen, g.needs_positions, g_own);
    seen = true;
    g_mean = g_mean + g_offset;
    camera(view, g_offset);
  }
  if (!seen)
    for (int64_t k = 0; k < 3 * K; ++k) g_own[k] = T(0);
  if (!g.needs_positions) return;
  g.means[3 * i] = g_mean.x;
  g.means[3 * i + 1] = g_mean.y;
  g.means[3 * i + 2] = g_mean.z;
}

template <typename T>
FL_HD void harmonics_one(const HarmonicsArgs<T>& a, int64_t i, T* colors) {
  Vec3<T> rgb{T(0), T(0), T(0)};
  if (a.masks == nullptr || a.masks[i])
    rgb = harmonic_color(a.degree, Vec3<T>{a.dirs[3 * i], a.dirs[3 * i + 1], a.dirs[3 * i + 2]},
                         a.coefficients + 3 * a.K * i);
  colors[3 * i] = rgb.x;
  colors[3 * i + 1] = rgb.y;
  colors[3 * i + 2] = rgb.z;
}

template <typename T>
FL_HD void harmonics_one_backward(const HarmonicsArgs<T>& a, const T* g_colors, int64_t i,
                                  T* g_dirs, T* g_coefficients) {
  const bool shown = a.masks == nullptr || a.masks[i];
  const Vec3<T> g = shown ? Vec3<T>{g_colors[3 * i], g_colors[3 * i + 1], g_colors[3 * i + 2]}
                          : Vec3<T>{T(0), T(0), T(0)};
  const Vec3<T> g_dir = harmonic_color_vjp(
      a.degree, a.K, Vec3<T>{a.dirs[3 * i], a.dirs[3 * i + 1], a.dirs[3 * i + 2]},
      a.coefficients + 3 * a.K * i, g, false, g_dirs != nullptr, g_coefficients + 3 * a.K * i);
  if (g_dirs == nullptr) return;
  g_dirs[3 * i] = g_dir.x;
  g_dirs[3 * i + 1] = g_dir.y;
  g_dirs[3 * i + 2] = g_dir.z;
}

// The colour operators as torch sees them, with the work left to a Backend.
template <typename Backend>
Tensor splat_shade(int64_t degree, Tensor means, Tensor viewmats, Tensor coefficients,
                   std::optional<Tensor> radii) {
  const ShadeSizes s = check_shade(degree, means, viewmats, coefficients, radii, "splat_shade");
  dense_all(means, viewmats, coefficients, radii);
  Tensor colors = new_empty(means, {s.B, s.C, s.N, 3});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    Backend::forward(shade_args<T>(degree, means, viewmats, coefficients, radii, s),
                     output<T>(colors), means);
  });
  return colors;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> splat_shade_backward(int64_t degree, Tensor means,
                                                        Tensor viewmats, Tensor coefficients,
                                                        std::optional<Tensor> radii, Tensor colors,
                                                        Tensor g_colors, bool needs_positions,
                                                        bool needs_cameras) {
  const char* op = "splat_shade_backward";
  const ShadeSizes s = check_shade(degree, means, viewmats, coefficients, radii, op);
  check_shape(colors, {s.B, s.C, s.N, 3}, op, "colors");
  check_shape(g_colors, {s.B, s.C, s.N, 3}, op, "g_colors");
  check_dtype(colors, means.scalar_type(), op, "colors");
  check_dtype(g_colors, means.scalar_type(), op, "g_colors");
  check_same_device(colors, means, op, "colors");
  check_same_device(g_colors, means, op, "g_colors");
  dense_all(means, viewmats, coefficients, radii);
  dense_all(colors, g_colors);
  Tensor g_means = new_empty(means, {needs_positions ? s.B : 0, s.N, 3});
  Tensor g_viewmats = new_zeros(means, {needs_positions ? s.B : 0, s.C, 4, 4});
  Tensor g_coefficients = new_empty(means, {s.B, s.N, s.K, 3});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    const ShadeGradients<T> g{
        input<T>(colors),   input<T>(g_colors),    needs_positions,          needs_cameras,
        output<T>(g_means), output<T>(g_viewmats), output<T>(g_coefficients)};
    Backend::backward(shade_args<T>(degree, means, viewmats, coefficients, radii, s), g, means);
  });
  return {g_means, g_viewmats, g_coefficients};
}

template <typename Backend>
Tensor spherical_harmonics(int64_t degree, Tensor dirs, Tensor coefficients,
                           std::optional<Tensor> masks) {
  const HarmonicsSizes s =
      check_harmonics(degree, dirs, coefficients, masks, "spherical_harmonics");
  dense_all(dirs, coefficients, masks);
  Tensor colors = new_empty(dirs, {s.M, 3});
  dispatch_float(dirs, [&](auto zero) {
    using T = decltype(zero);
    Backend::forward(harmonics_args<T>(degree, dirs, coefficients, masks, s), output<T>(colors),
                     dirs);
  });
  return colors;
}

template <typename Backend>
std::tuple<Tensor, Tensor> spherical_harmonics_backward(int64_t degree, Tensor dirs,
                                                        Tensor coefficients,
                                                        std::optional<Tensor> masks,
                                                        Tensor g_colors, bool needs_dirs) {
  const char* op = "spherical_harmonics_backward";
  const HarmonicsSizes s = check_harmonics(degree, dirs, coefficients, masks, op);
  check_shape(g_colors, {s.M, 3}, op, "g_colors");
  dense_all(dirs, coefficients, masks, g_colors);
  Tensor g_dirs = new_empty(dirs, {needs_dirs ? s.M : 0, 3});
  Tensor g_coefficients = new_empty(dirs, {s.M, s.K, 3});
  dispatch_float(dirs, [&](auto zero) {
    using T = decltype(zero);
    Backend::backward(harmonics_args<T>(degree, dirs, coefficients, masks, s), input<T>(g_colors),
                      needs_dirs ? output<T>(g_dirs) : nullptr, output<T>(g_coefficients), dirs);
  });
  return {g_dirs, g_coefficients};
}

}  // namespace fl::splat
