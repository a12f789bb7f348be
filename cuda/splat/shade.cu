// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of spherical-harmonic colours: a thread a Gaussian, over its cameras. Coefficients
// are rows of up to 75 numbers: a warp moves its 32 rows through shared memory, so that global
// memory is read and written in order, and rows that no camera shows are not read. The gradient of
// camera centres, when asked for, takes a launch of its own, a block a camera and 256 Gaussians.
#include <type_traits>

#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "splat/block_sums.h"
#include "splat/draw_parts.h"
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

constexpr unsigned kFullWarp = 0xffffffffu;

template <int kDegree>
struct Rows {
  static constexpr int kBases = (kDegree + 1) * (kDegree + 1);
  static constexpr int kValues = 3 * kBases;
  static constexpr int kPitch = kValues | 1;  // odd: the lanes' rows fall into different banks
};

template <typename T>
FL_D bool is_shown_anywhere(const ShadeArgs<T>& a, int64_t i) {
  const int64_t b = i / a.N, n = i % a.N;
  for (int64_t c = 0; c < a.C; ++c)
    if (is_shown(a, (b * a.C + c) * a.N + n)) return true;
  return false;
}

// move(k, row, column) for this lane's share of 32 rows of kValues numbers, and then
// done(k, row, column): eight at a time, so that eight loads are under way together.
template <int kValues, typename Move, typename Done>
FL_D void for_row_values(const Move& move, const Done& done) {
  constexpr int kTogether = 8;
  const int lane = threadIdx.x % 32;
  for (int first = 0; first < kValues; first += kTogether) {
    FL_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const int k = 32 * (first + j) + lane;
      if (first + j < kValues) move(j, k / kValues, k % kValues);
    }
    FL_UNROLL
    for (int j = 0; j < kTogether; ++j) {
      const int k = 32 * (first + j) + lane;
      if (first + j < kValues) done(j, k / kValues, k % kValues);
    }
  }
}

// Global rows first .. first + 31 of a.K bases to shared rows of the degree's; `wanted` says which.
template <typename T, int kDegree>
FL_D void load_rows(const ShadeArgs<T>& a, int64_t first, unsigned wanted, T* rows) {
  using Layout = Rows<kDegree>;
  const T* source = a.coefficients + 3 * a.K * first;
  T values[8] = {};
  for_row_values<Layout::kValues>(
      [&](int j, int row, int column) {
        values[j] = wanted >> row & 1 ? source[3 * a.K * row + column] : T(0);
      },
      [&](int j, int row, int column) { rows[row * Layout::kPitch + column] = values[j]; });
  __syncwarp();
}

// The other way; bases above the degree get zeros.
template <typename T, int kDegree>
FL_D void store_rows(const ShadeArgs<T>& a, const T* rows, int64_t first, int count, T* out) {
  using Layout = Rows<kDegree>;
  const int lane = threadIdx.x % 32;
  T* target = out + 3 * a.K * first;
  __syncwarp();
  for_row_values<Layout::kValues>(
      [&](int, int row, int column) {
        if (row < count) target[3 * a.K * row + column] = rows[row * Layout::kPitch + column];
      },
      [](int, int, int) {});
  if (a.K == Layout::kBases) return;
  for (int row = 0; row < count; ++row)
    for (int64_t column = Layout::kValues + lane; column < 3 * a.K; column += 32)
      target[3 * a.K * row + column] = T(0);
}

template <typename T, int kDegree>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 6) shade_kernel(ShadeArgs<T> a, T* colors) {
  using Layout = Rows<kDegree>;
  FL_DYNAMIC_SHARED(T, staged);
  a.degree = kDegree;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % 32;
  T* rows = &staged[(threadIdx.x - lane) * Layout::kPitch];
  const bool wanted = i < a.B * a.N && is_shown_anywhere(a, i);
  load_rows<T, kDegree>(a, i - lane, __ballot_sync(kFullWarp, wanted), rows);
  if (i >= a.B * a.N) return;
  const int64_t b = i / a.N, n = i % a.N;
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t view = b * a.C + c, o = view * a.N + n;
    Vec3<T> rgb{T(0), T(0), T(0)};
    if (is_shown(a, o))
      rgb = Vec3<T>{T(0.5), T(0.5), T(0.5)} +
            harmonic_color(kDegree, mean - camera_center(a.viewmats + 16 * view),
                           rows + lane * Layout::kPitch);
    colors[3 * o] = maximum(rgb.x, T(0));
    colors[3 * o + 1] = maximum(rgb.y, T(0));
    colors[3 * o + 2] = maximum(rgb.z, T(0));
  }
}

// With one camera a row of gradients takes the place of the row of coefficients; with more, it has
// a place of its own behind them.
template <typename T, int kDegree>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, (sizeof(T) == 4 ? 5 : 2))
    shade_backward_kernel(ShadeArgs<T> a, ShadeGradients<T> g) {
  using Layout = Rows<kDegree>;
  FL_DYNAMIC_SHARED(T, staged);
  a.degree = kDegree;
  const int64_t total = a.B * a.N;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % 32;
  T* rows = &staged[(threadIdx.x - lane) * Layout::kPitch];
  T* g_rows = a.C == 1 ? rows : rows + blockDim.x * Layout::kPitch;
  const bool wanted = i < total && g.needs_positions && is_shown_anywhere(a, i);
  load_rows<T, kDegree>(a, i - lane, __ballot_sync(kFullWarp, wanted), rows);
  if (i < total)
    shade_one_backward(a, g, i, rows + lane * Layout::kPitch, g_rows + lane * Layout::kPitch,
                       Layout::kBases, [](int64_t, const Vec3<T>&) {});
  const int64_t left = total - (i - lane);
  store_rows<T, kDegree>(a, g_rows, i - lane, static_cast<int>(left < 32 ? left : 32),
                         g.coefficients);
}

// A block's threads and shared memory, which stays below the 99 KB that every GPU since sm_80 has.
template <typename T, int kDegree>
struct Staging {
  int threads;
  std::size_t bytes;

  explicit Staging(int64_t copies) : threads(kThreads) {
    const std::size_t each = sizeof(T) * Rows<kDegree>::kPitch * copies;
    if (threads * each > 99 * 1024) threads /= 2;
    bytes = threads * each;
  }
  int64_t blocks(int64_t count) const { return (count + threads - 1) / threads; }
};

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
      constexpr int kDegree = decltype(degree)::value;
      const Staging<T, kDegree> staging(1);
      FL_LAUNCH((shade_kernel<T, kDegree>), staging.blocks(args.B * args.N), staging.threads,
                staging.bytes, current_stream(like.get_device_index()), args, colors);
    });
  }
  template <typename T>
  static void backward(const ShadeArgs<T>& args, const ShadeGradients<T>& g, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_degree(args.degree, [&](auto degree) {
      constexpr int kDegree = decltype(degree)::value;
      const Staging<T, kDegree> staging(args.C == 1 ? 1 : 2);
      FL_LAUNCH((shade_backward_kernel<T, kDegree>), staging.blocks(args.B * args.N),
                staging.threads, staging.bytes, stream, args, g);
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

Tensor shade_here(int64_t degree, const Tensor& means, const Tensor& viewmats,
                  const Tensor& coefficients, const Tensor& radii) {
  return splat_shade<CudaShade>(degree, means, viewmats, coefficients, radii);
}

std::tuple<Tensor, Tensor, Tensor> shade_backward_here(int64_t degree, const Tensor& means,
                                                       const Tensor& viewmats,
                                                       const Tensor& coefficients,
                                                       const Tensor& radii, const Tensor& colors,
                                                       const Tensor& g_colors, bool needs_positions,
                                                       bool needs_cameras) {
  return splat_shade_backward<CudaShade>(degree, means, viewmats, coefficients, radii, colors,
                                         g_colors, needs_positions, needs_cameras);
}

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_shade", TORCH_BOX(&splat_shade<CudaShade>));
  m.impl("splat_shade_backward", TORCH_BOX(&splat_shade_backward<CudaShade>));
  m.impl("spherical_harmonics", TORCH_BOX(&spherical_harmonics<CudaHarmonics>));
  m.impl("spherical_harmonics_backward", TORCH_BOX(&spherical_harmonics_backward<CudaHarmonics>));
}

}  // namespace fl::splat
