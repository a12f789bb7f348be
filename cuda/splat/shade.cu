// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of spherical-harmonic colours: a thread a Gaussian, over its cameras. The gradient
// of camera centres, when asked for, takes a launch of its own, a block a camera and 256 Gaussians.
#include <type_traits>

#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "splat/block_sums.h"
#include "splat/shade_entry.h"

namespace fl::splat {
namespace {

constexpr int kThreads = 128;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

// A kernel a degree: the bases then stay in registers. Calls f(degree as a constant).
template <typename F>
void dispatch_degree(int degree, const F& f) {
  if (degree == 0) return f(std::integral_constant<int, 0>{});
  if (degree == 1) return f(std::integral_constant<int, 1>{});
  if (degree == 2) return f(std::integral_constant<int, 2>{});
  if (degree == 3) return f(std::integral_constant<int, 3>{});
  f(std::integral_constant<int, 4>{});
}

template <typename T, int kDegree>
FL_KERNEL shade_kernel(ShadeArgs<T> a, T* colors) {
  a.degree = kDegree;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.B * a.N) return;
  const int64_t b = i / a.N, n = i % a.N;
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t view = b * a.C + c, o = view * a.N + n;
    Vec3<T> rgb{T(0), T(0), T(0)};
    if (is_shown(a, o))
      rgb = Vec3<T>{T(0.5), T(0.5), T(0.5)} +
            harmonic_color(a.degree, mean - camera_center(a.viewmats + 16 * view),
                           a.coefficients + 3 * a.K * i);
    colors[3 * o] = maximum(rgb.x, T(0));
    colors[3 * o + 1] = maximum(rgb.y, T(0));
    colors[3 * o + 2] = maximum(rgb.z, T(0));
  }
}

template <typename T, int kDegree>
FL_KERNEL shade_backward_kernel(ShadeArgs<T> a, ShadeGradients<T> g) {
  a.degree = kDegree;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.B * a.N) return;
  shade_one_backward(a, g, i, [](int64_t, const Vec3<T>&) {});
}

// The viewing offset is mean - centre. With one camera a scene its gradient is what g.means holds;
// with more, each camera's share is computed again.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kSumThreads, 1)
    center_backward_kernel(ShadeArgs<T> a, ShadeGradients<T> g, T* rows) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t view = blockIdx.y, o = view * a.N + n, i = view / a.C * a.N + n;
  T values[3] = {};
  if (n < a.N && is_shown(a, o)) {
    Vec3<T> g_offset{T(0), T(0), T(0)};
    if (a.C == 1) {
      g_offset = {g.means[3 * i], g.means[3 * i + 1], g.means[3 * i + 2]};
    } else {
      const T* c = a.coefficients + 3 * a.K * i;
      const Vec3<T> offset = Vec3<T>{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]} -
                             camera_center(a.viewmats + 16 * view);
      g_offset = harmonic_direction_vjp(a.degree, offset, c, color_gradient(g, o));
    }
    values[0] = -g_offset.x;
    values[1] = -g_offset.y;
    values[2] = -g_offset.z;
  }
  block_sum<T, 3>(values, rows + (view * gridDim.x + blockIdx.x) * 3);
}

template <typename T>
FL_KERNEL store_centers_kernel(const T* sums, const T* viewmats, int64_t views, T* g_viewmats) {
  const int64_t view = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (view >= views) return;
  const Vec3<T> g{sums[3 * view], sums[3 * view + 1], sums[3 * view + 2]};
  camera_center_vjp(viewmats + 16 * view, g, g_viewmats + 16 * view);
}

template <typename T>
void center_backward(const ShadeArgs<T>& args, const ShadeGradients<T>& g, const Tensor& like,
                     Stream stream) {
  const int64_t views = args.B * args.C, blocks = (args.N + kSumThreads - 1) / kSumThreads;
  if (views == 0 || blocks == 0) return;
  STD_TORCH_CHECK(views < 65536, "splat_shade_backward: viewmats: expected fewer than 65536, got ",
                  views);
  const Tensor rows = new_empty(like, {views, blocks, 3}), sums = new_empty(like, {views, 3});
  FL_LAUNCH((center_backward_kernel<T>),
            dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(views)), kSumThreads, 0,
            stream, args, g, output<T>(rows));
  FL_LAUNCH((add_block_sums_kernel<T, 3>), views, kSumThreads, 0, stream, input<T>(rows), blocks,
            output<T>(sums));
  FL_LAUNCH((store_centers_kernel<T>), blocks_for(views), kThreads, 0, stream, input<T>(sums),
            args.viewmats, views, g.viewmats);
}

struct CudaShade {
  template <typename T>
  static void forward(const ShadeArgs<T>& args, T* colors, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    dispatch_degree(args.degree, [&](auto degree) {
      FL_LAUNCH((shade_kernel<T, decltype(degree)::value>), blocks_for(args.B * args.N), kThreads,
                0, current_stream(like.get_device_index()), args, colors);
    });
  }
  template <typename T>
  static void backward(const ShadeArgs<T>& args, const ShadeGradients<T>& g, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_degree(args.degree, [&](auto degree) {
      FL_LAUNCH((shade_backward_kernel<T, decltype(degree)::value>), blocks_for(args.B * args.N),
                kThreads, 0, stream, args, g);
    });
    if (g.needs_cameras) center_backward(args, g, like, stream);
  }
};

template <typename T>
FL_KERNEL harmonics_kernel(HarmonicsArgs<T> a, T* colors) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.M) harmonics_one(a, i, colors);
}

template <typename T>
FL_KERNEL harmonics_backward_kernel(HarmonicsArgs<T> a, const T* g_colors, T* g_dirs,
                                    T* g_coefficients) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.M) harmonics_one_backward(a, g_colors, i, g_dirs, g_coefficients);
}

struct CudaHarmonics {
  template <typename T>
  static void forward(const HarmonicsArgs<T>& args, T* colors, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((harmonics_kernel<T>), blocks_for(args.M), kThreads, 0,
              current_stream(like.get_device_index()), args, colors);
  }
  template <typename T>
  static void backward(const HarmonicsArgs<T>& args, const T* g_colors, T* g_dirs,
                       T* g_coefficients, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((harmonics_backward_kernel<T>), blocks_for(args.M), kThreads, 0,
              current_stream(like.get_device_index()), args, g_colors, g_dirs, g_coefficients);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_shade", TORCH_BOX(&splat_shade<CudaShade>));
  m.impl("splat_shade_backward", TORCH_BOX(&splat_shade_backward<CudaShade>));
  m.impl("spherical_harmonics", TORCH_BOX(&spherical_harmonics<CudaHarmonics>));
  m.impl("spherical_harmonics_backward", TORCH_BOX(&spherical_harmonics_backward<CudaHarmonics>));
}

}  // namespace fl::splat
