// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of spherical-harmonic colours: threads over Gaussians, each over its cameras.
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/args.h"
#include "splat/shade_args.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 2048;

template <typename T>
void sum_colors(const T* bases, const T* coefficients, int count, T* rgb) {
  rgb[0] = rgb[1] = rgb[2] = T(0);
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < 3; ++c) rgb[c] += bases[k] * coefficients[3 * k + c];
}

template <typename T>
void shade(const ShadeArgs<T>& a, T* colors) {
  const int count = (a.degree + 1) * (a.degree + 1);
  std::vector<Vec3<T>> centers(a.B * a.C);
  for (size_t i = 0; i < centers.size(); ++i) centers[i] = camera_center(a.viewmats + 16 * i);
  parallel_for(0, a.B * a.N, kChunk, [&](int64_t begin, int64_t end) {
    T bases[kMaxShBases];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.N, n = i % a.N;
      const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
      for (int64_t c = 0; c < a.C; ++c) {
        const int64_t o = (b * a.C + c) * a.N + n;
        T* rgb = colors + 3 * o;
        rgb[0] = rgb[1] = rgb[2] = T(0);
        if (a.radii != nullptr && (a.radii[2 * o] <= 0 || a.radii[2 * o + 1] <= 0)) continue;
        const Vec3<T> offset = mean - centers[b * a.C + c];
        const T inverse = inverse_length(offset);
        sh_bases(a.degree, offset.x * inverse, offset.y * inverse, offset.z * inverse, bases);
        sum_colors(bases, a.coefficients + 3 * a.K * i, count, rgb);
        for (int k = 0; k < 3; ++k) rgb[k] = maximum(rgb[k] + T(0.5), T(0));
      }
    }
  });
}

// Gradients of one direction's colour: adds to the coefficients' and returns the direction's.
template <typename T>
Vec3<T> shade_one_backward(int degree, const Vec3<T>& offset, const T* coefficients,
                           const T* g_rgb, T* g_coefficients, bool needs_direction) {
  const int count = (degree + 1) * (degree + 1);
  const T inverse = inverse_length(offset);
  const Vec3<T> unit = inverse * offset;
  T bases[kMaxShBases], g_bases[kMaxShBases] = {};
  sh_bases(degree, unit.x, unit.y, unit.z, bases);
  for (int k = 0; k < count; ++k) {
    g_bases[k] = T(0);
    for (int c = 0; c < 3; ++c) {
      g_coefficients[3 * k + c] += bases[k] * g_rgb[c];
      g_bases[k] += coefficients[3 * k + c] * g_rgb[c];
    }
  }
  if (!needs_direction) return {T(0), T(0), T(0)};
  return normalise_vjp(unit, inverse, sh_bases_vjp(degree, unit.x, unit.y, unit.z, g_bases));
}

template <typename T>
void shade_backward(const ShadeArgs<T>& a, const T* colors, const T* g_colors, bool needs_positions,
                    T* g_means, T* g_viewmats, T* g_coefficients) {
  const int64_t total = a.B * a.N, chunks = (total + kChunk - 1) / kChunk, views = a.B * a.C;
  std::vector<Vec3<T>> centers(views);
  for (int64_t i = 0; i < views; ++i) centers[i] = camera_center(a.viewmats + 16 * i);
  std::vector<Vec3<T>> sums(needs_positions ? chunks * views : 0, Vec3<T>{T(0), T(0), T(0)});
  const auto one = [&](int64_t i, Vec3<T>* chunk_sums) {
    const int64_t b = i / a.N, n = i % a.N;
    T* g_own = g_coefficients + 3 * a.K * i;
    for (int64_t k = 0; k < 3 * a.K; ++k) g_own[k] = T(0);
    const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
    Vec3<T> g_mean{T(0), T(0), T(0)};
    for (int64_t c = 0; c < a.C; ++c) {
      const int64_t view = b * a.C + c, o = view * a.N + n;
      if (a.radii != nullptr && (a.radii[2 * o] <= 0 || a.radii[2 * o + 1] <= 0)) continue;
      T g_rgb[3];
      for (int k = 0; k < 3; ++k) g_rgb[k] = colors[3 * o + k] > T(0) ? g_colors[3 * o + k] : T(0);
      const Vec3<T> g =
          shade_one_backward(a.degree, mean - centers[view], a.coefficients + 3 * a.K * i, g_rgb,
                             g_own, needs_positions);
      g_mean = g_mean + g;
      if (needs_positions) chunk_sums[view] = chunk_sums[view] - g;
    }
    if (!needs_positions) return;
    g_means[3 * i] = g_mean.x;
    g_means[3 * i + 1] = g_mean.y;
    g_means[3 * i + 2] = g_mean.z;
  };
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = std::min(total, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < last; ++i) one(i, sums.data() + chunk * views);
    }
  });
  if (!needs_positions) return;
  for (int64_t view = 0; view < views; ++view) {
    Vec3<T> g{T(0), T(0), T(0)};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) g = g + sums[chunk * views + view];
    camera_center_vjp(a.viewmats + 16 * view, g, g_viewmats + 16 * view);
  }
}

Tensor splat_shade_cpu(int64_t degree, Tensor means, Tensor viewmats, Tensor coefficients,
                       std::optional<Tensor> radii) {
  const ShadeSizes s = check_shade(degree, means, viewmats, coefficients, radii, "splat_shade");
  dense_all(means, viewmats, coefficients, radii);
  Tensor colors = new_empty(means, {s.B, s.C, s.N, 3});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    shade(shade_args<T>(degree, means, viewmats, coefficients, radii, s), output<T>(colors));
  });
  return colors;
}

std::tuple<Tensor, Tensor, Tensor> splat_shade_backward_cpu(
    int64_t degree, Tensor means, Tensor viewmats, Tensor coefficients, std::optional<Tensor> radii,
    Tensor colors, Tensor g_colors, bool needs_positions) {
  const char* op = "splat_shade_backward";
  const ShadeSizes s = check_shade(degree, means, viewmats, coefficients, radii, op);
  check_shape(colors, {s.B, s.C, s.N, 3}, op, "colors");
  check_shape(g_colors, {s.B, s.C, s.N, 3}, op, "g_colors");
  dense_all(means, viewmats, coefficients, radii);
  dense_all(colors, g_colors);
  Tensor g_means = new_empty(means, {needs_positions ? s.B : 0, s.N, 3});
  Tensor g_viewmats = new_zeros(means, {needs_positions ? s.B : 0, s.C, 4, 4});
  Tensor g_coefficients = new_empty(means, {s.B, s.N, s.K, 3});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    shade_backward(shade_args<T>(degree, means, viewmats, coefficients, radii, s), input<T>(colors),
                   input<T>(g_colors), needs_positions, output<T>(g_means), output<T>(g_viewmats),
                   output<T>(g_coefficients));
  });
  return {g_means, g_viewmats, g_coefficients};
}

Tensor spherical_harmonics_cpu(int64_t degree, Tensor dirs, Tensor coefficients,
                               std::optional<Tensor> masks) {
  const auto [M, K] = check_harmonics(degree, dirs, coefficients, masks, "spherical_harmonics");
  dense_all(dirs, coefficients, masks);
  Tensor colors = new_empty(dirs, {M, 3});
  dispatch_float(dirs, [&, M = M, K = K](auto zero) {
    using T = decltype(zero);
    const T *d = input<T>(dirs), *values = input<T>(coefficients);
    const bool* keep = optional_input<bool>(masks);
    T* out = output<T>(colors);
    const int count = static_cast<int>((degree + 1) * (degree + 1));
    parallel_for(0, M, kChunk, [&](int64_t begin, int64_t end) {
      T bases[kMaxShBases];
      for (int64_t i = begin; i < end; ++i) {
        T* rgb = out + 3 * i;
        rgb[0] = rgb[1] = rgb[2] = T(0);
        if (keep != nullptr && !keep[i]) continue;
        const Vec3<T> dir{d[3 * i], d[3 * i + 1], d[3 * i + 2]};
        const T inverse = inverse_length(dir);
        sh_bases(static_cast<int>(degree), dir.x * inverse, dir.y * inverse, dir.z * inverse,
                 bases);
        sum_colors(bases, values + 3 * K * i, count, rgb);
      }
    });
  });
  return colors;
}

std::tuple<Tensor, Tensor> spherical_harmonics_backward_cpu(int64_t degree, Tensor dirs,
                                                            Tensor coefficients,
                                                            std::optional<Tensor> masks,
                                                            Tensor g_colors, bool needs_dirs) {
  const char* op = "spherical_harmonics_backward";
  const auto [M, K] = check_harmonics(degree, dirs, coefficients, masks, op);
  check_shape(g_colors, {M, 3}, op, "g_colors");
  dense_all(dirs, coefficients, masks, g_colors);
  Tensor g_dirs = new_zeros(dirs, {needs_dirs ? M : 0, 3});
  Tensor g_coefficients = new_zeros(dirs, {M, K, 3});
  dispatch_float(dirs, [&, M = M, K = K](auto zero) {
    using T = decltype(zero);
    const T *d = input<T>(dirs), *values = input<T>(coefficients), *g = input<T>(g_colors);
    const bool* keep = optional_input<bool>(masks);
    T *out_dirs = output<T>(g_dirs), *out_values = output<T>(g_coefficients);
    parallel_for(0, M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (keep != nullptr && !keep[i]) continue;
        const Vec3<T> g_dir = shade_one_backward(
            static_cast<int>(degree), Vec3<T>{d[3 * i], d[3 * i + 1], d[3 * i + 2]},
            values + 3 * K * i, g + 3 * i, out_values + 3 * K * i, needs_dirs);
        if (!needs_dirs) continue;
        out_dirs[3 * i] = g_dir.x;
        out_dirs[3 * i + 1] = g_dir.y;
        out_dirs[3 * i + 2] = g_dir.z;
      }
    });
  });
  return {g_dirs, g_coefficients};
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_shade", TORCH_BOX(&splat_shade_cpu));
  m.impl("splat_shade_backward", TORCH_BOX(&splat_shade_backward_cpu));
  m.impl("spherical_harmonics", TORCH_BOX(&spherical_harmonics_cpu));
  m.impl("spherical_harmonics_backward", TORCH_BOX(&spherical_harmonics_backward_cpu));
}

}  // namespace fl::splat
