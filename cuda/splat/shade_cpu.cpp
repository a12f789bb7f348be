// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of spherical-harmonic colours: threads over Gaussians, each over its cameras.
// Camera gradients are summed over fixed chunks of Gaussians, then over chunks.
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/draw_parts.h"
#include "splat/shade_entry.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 2048;

template <typename T>
void shade(const ShadeArgs<T>& a, T* colors) {
  std::vector<Vec3<T>> centers(a.B * a.C);
  for (size_t i = 0; i < centers.size(); ++i) centers[i] = camera_center(a.viewmats + 16 * i);
  parallel_for(0, a.B * a.N, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.N, n = i % a.N;
      const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
      for (int64_t c = 0; c < a.C; ++c) {
        const int64_t view = b * a.C + c, o = view * a.N + n;
        Vec3<T> rgb{T(0), T(0), T(0)};
        if (is_shown(a, o)) {
          const Vec3<T> half{T(0.5), T(0.5), T(0.5)};
          rgb = half + harmonic_color(a.degree, mean - centers[view], a.coefficients + 3 * a.K * i);
        }
        colors[3 * o] = maximum(rgb.x, T(0));
        colors[3 * o + 1] = maximum(rgb.y, T(0));
        colors[3 * o + 2] = maximum(rgb.z, T(0));
      }
    }
  });
}

template <typename T>
void shade_backward(const ShadeArgs<T>& a, const ShadeGradients<T>& g) {
  const int64_t total = a.B * a.N, chunks = (total + kChunk - 1) / kChunk, views = a.B * a.C;
  std::vector<Vec3<T>> sums(g.needs_cameras ? chunks * views : 0, Vec3<T>{T(0), T(0), T(0)});
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = std::min(total, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < last; ++i)
        shade_one_backward(a, g, i, a.coefficients + 3 * a.K * i, g.coefficients + 3 * a.K * i, a.K,
                           [&](int64_t view, const Vec3<T>& g_offset) {
                             if (!g.needs_cameras) return;
                             Vec3<T>& sum = sums[chunk * views + view];
                             sum = sum - g_offset;
                           });
    }
  });
  if (!g.needs_cameras) return;
  for (int64_t view = 0; view < views; ++view) {
    Vec3<T> sum{T(0), T(0), T(0)};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum = sum + sums[chunk * views + view];
    camera_center_vjp(a.viewmats + 16 * view, sum, g.viewmats + 16 * view);
  }
}

struct CpuShade {
  template <typename T>
  static void forward(const ShadeArgs<T>& args, T* colors, const Tensor&) {
    shade(args, colors);
  }
  template <typename T>
  static void backward(const ShadeArgs<T>& args, const ShadeGradients<T>& g, const Tensor&) {
    shade_backward(args, g);
  }
};

struct CpuHarmonics {
  template <typename T>
  static void forward(const HarmonicsArgs<T>& args, T* colors, const Tensor&) {
    parallel_for(0, args.M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) harmonics_one(args, i, colors);
    });
  }
  template <typename T>
  static void backward(const HarmonicsArgs<T>& args, const T* g_colors, T* g_dirs,
                       T* g_coefficients, const Tensor&) {
    parallel_for(0, args.M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        harmonics_one_backward(args, g_colors, i, g_dirs, g_coefficients);
    });
  }
};

}  // namespace

Tensor shade_here(int64_t degree, const Tensor& means, const Tensor& viewmats,
                  const Tensor& coefficients, const Tensor& radii) {
  return splat_shade<CpuShade>(degree, means, viewmats, coefficients, radii);
}

std::tuple<Tensor, Tensor, Tensor> shade_backward_here(int64_t degree, const Tensor& means,
                                                       const Tensor& viewmats,
                                                       const Tensor& coefficients,
                                                       const Tensor& radii, const Tensor& colors,
                                                       const Tensor& g_colors, bool needs_positions,
                                                       bool needs_cameras) {
  return splat_shade_backward<CpuShade>(degree, means, viewmats, coefficients, radii, colors,
                                        g_colors, needs_positions, needs_cameras);
}

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_shade", TORCH_BOX(&splat_shade<CpuShade>));
  m.impl("splat_shade_backward", TORCH_BOX(&splat_shade_backward<CpuShade>));
  m.impl("spherical_harmonics", TORCH_BOX(&spherical_harmonics<CpuHarmonics>));
  m.impl("spherical_harmonics_backward", TORCH_BOX(&spherical_harmonics_backward<CpuHarmonics>));
}

}  // namespace fl::splat
