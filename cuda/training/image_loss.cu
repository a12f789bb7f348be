// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the image loss. One block a 16 x 16 tile of one channel: image and target with a
// margin of five go to shared memory, are averaged along rows, then along columns. The derivatives
// by the averages pass through global memory to a second kernel, which averages them into the
// gradient. Sums are kept a tile each and added in tile order: deterministic, without atomics.
#include <tuple>

#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "training/image_loss_args.h"

namespace fl::training {
namespace {

constexpr int kTile = 16;
constexpr int kThreads = kTile * kTile;
constexpr int kCountThreads = 1024;
constexpr int kReach = kTile + 2 * kWindowRadius;

template <typename T>
struct LossImages {
  const T* image;
  const T* target;  // null if target_bytes is not
  const uint8_t* target_bytes;
  const uint8_t* mask;  // or null
  ImageLayout layout;
  bool channels_last;
  int64_t tiles_x, tiles_y;
};

// What one image's sums are divided by; 0 for an empty mean.
struct Scales {
  double l1, ssim;
};

struct TileOrigin {
  int64_t batch, channel, y, x;
};

template <typename T>
FL_D TileOrigin tile_origin(const LossImages<T>& in) {
  const int64_t tiles = in.tiles_x * in.tiles_y;
  const int64_t plane = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  return {plane / in.layout.channels, plane % in.layout.channels, tile / in.tiles_x * kTile,
          tile % in.tiles_x * kTile};
}

template <typename T>
FL_D int64_t value_index(const LossImages<T>& in, const TileOrigin& o, int64_t y, int64_t x) {
  const ImageLayout& s = in.layout;
  if (in.channels_last) return ((o.batch * s.height + y) * s.width + x) * s.channels + o.channel;
  return ((o.batch * s.channels + o.channel) * s.height + y) * s.width + x;
}

template <typename T>
FL_D bool kept(const LossImages<T>& in, const TileOrigin& o, int64_t y, int64_t x) {
  if (y < 0 || x < 0 || y >= in.layout.height || x >= in.layout.width) return false;
  return in.mask == nullptr || in.mask[(o.batch * in.layout.height + y) * in.layout.width + x] != 0;
}

// Whether the window centred here counts.
template <typename T>
FL_D bool counted(const LossImages<T>& in, const TileOrigin& o, int64_t y, int64_t x) {
  const int64_t skip = in.layout.valid ? kWindowRadius : 0;
  return y >= skip && x >= skip && y < in.layout.height - skip && x < in.layout.width - skip &&
         kept(in, o, y, x);
}

template <typename T>
FL_D T read_target(const LossImages<T>& in, int64_t index) {
  return in.target_bytes ? T(in.target_bytes[index]) * (T(1) / T(255)) : in.target[index];
}

FL_D double reciprocal(unsigned long long count) {
  return count > 0 ? 1.0 / static_cast<double>(count) : 0.0;
}

// How many terms each image's means have, as reciprocals. One block an image.
template <typename T>
FL_KERNEL count_kernel(LossImages<T> in, Scales* scales) {
  const unsigned long long channels = in.layout.channels;
  if (in.mask == nullptr) {
    const unsigned long long skip = in.layout.valid ? 2 * kWindowRadius : 0;
    const unsigned long long h = in.layout.height, w = in.layout.width;
    if (threadIdx.x == 0)
      scales[blockIdx.x] = {reciprocal(channels * h * w),
                            reciprocal(channels * (h - skip) * (w - skip))};
    return;
  }
  FL_SHARED(unsigned long long, counts, 2);
  if (threadIdx.x < 2) counts[threadIdx.x] = 0;
  __syncthreads();
  const TileOrigin o{static_cast<int64_t>(blockIdx.x), 0, 0, 0};
  unsigned long long all = 0, inside = 0;
  for (int64_t i = threadIdx.x; i < in.layout.height * in.layout.width; i += blockDim.x) {
    const int64_t y = i / in.layout.width, x = i % in.layout.width;
    all += kept(in, o, y, x);
    inside += counted(in, o, y, x);
  }
  // Integers: the order of the additions does not matter.
  atomicAdd(&counts[0], all);
  atomicAdd(&counts[1], inside);
  __syncthreads();
  if (threadIdx.x == 0)
    scales[blockIdx.x] = {reciprocal(channels * counts[0]), reciprocal(channels * counts[1])};
}

// Sum over the block, valid in thread 0. All threads call it.
template <typename T>
FL_D T block_sum(T* shared, T value) {
  const int thread = threadIdx.y * kTile + threadIdx.x;
  __syncthreads();
  shared[thread] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) shared[thread] += shared[thread + half];
  }
  return shared[0];
}

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 2)
    similarity_kernel(LossImages<T> in, T* derivatives, double* tile_sums) {
  FL_SHARED_2D(T, xs, kReach, kReach);
  FL_SHARED_2D(T, ys, kReach, kReach);
  FL_SHARED_2D(T, rows, kAverages, kReach * kTile);
  FL_SHARED(T, sums, kThreads);
  constexpr T weights[kWindow] = FL_SSIM_WINDOW;
  const TileOrigin o = tile_origin(in);
  const int thread = threadIdx.y * kTile + threadIdx.x;
  for (int i = thread; i < kReach * kReach; i += kThreads) {
    const int64_t y = o.y + i / kReach - kWindowRadius, x = o.x + i % kReach - kWindowRadius;
    const bool inside = kept(in, o, y, x);
    const int64_t index = inside ? value_index(in, o, y, x) : 0;
    xs[i / kReach][i % kReach] = inside ? in.image[index] : T(0);
    ys[i / kReach][i % kReach] = inside ? read_target(in, index) : T(0);
  }
  __syncthreads();
  for (int i = thread; i < kReach * kTile; i += kThreads) {
    T s[kAverages] = {};
    FL_UNROLL
    for (int k = 0; k < kWindow; ++k) {
      const T x = xs[i / kTile][i % kTile + k], y = ys[i / kTile][i % kTile + k];
      const T wx = weights[k] * x, wy = weights[k] * y, d = x - y;
      s[0] += wx;
      s[1] += wy;
      s[2] += wx * x + wy * y;
      s[3] += weights[k] * (d * d);
    }
    FL_UNROLL
    for (int q = 0; q < kAverages; ++q) rows[q][i] = s[q];
  }
  __syncthreads();
  T s[kAverages] = {};
  FL_UNROLL
  for (int k = 0; k < kWindow; ++k) FL_UNROLL
  for (int q = 0; q < kAverages; ++q)
    s[q] += weights[k] * rows[q][(threadIdx.y + k) * kTile + threadIdx.x];
  const int64_t y = o.y + threadIdx.y, x = o.x + threadIdx.x;
  const bool counts = counted(in, o, y, x);
  const Similarity<T> here = similarity<T, T>(s[0], s[1], s[2], s[3]);
  if (derivatives != nullptr && y < in.layout.height && x < in.layout.width) {
    const ImageLayout& l = in.layout;
    const int64_t plane = l.batch * l.channels * l.height * l.width;
    const int64_t index = value_index(in, o, y, x);
    derivatives[index] = counts ? here.d_mean : T(0);
    derivatives[plane + index] = counts ? here.d_energy : T(0);
    derivatives[2 * plane + index] = counts ? here.d_error : T(0);
  }
  const T difference = xs[threadIdx.y + kWindowRadius][threadIdx.x + kWindowRadius] -
                       ys[threadIdx.y + kWindowRadius][threadIdx.x + kWindowRadius];
  const T l1 = block_sum<T>(&sums[0], difference < T(0) ? -difference : difference);
  const T ssim = block_sum<T>(&sums[0], counts ? here.value : T(0));
  if (thread != 0) return;
  tile_sums[2 * static_cast<int64_t>(blockIdx.x)] = l1;
  tile_sums[2 * static_cast<int64_t>(blockIdx.x) + 1] = ssim;
}

// Adds up an image's tiles and makes its loss. One block an image.
template <typename T>
FL_KERNEL mean_kernel(const double* tile_sums, int64_t tiles, const Scales* scales,
                      LossWeights weights, T* loss, T* l1, T* ssim) {
  FL_SHARED(double, sums, kThreads);
  double mine[2] = {0, 0};
  const double* first = tile_sums + 2 * tiles * static_cast<int64_t>(blockIdx.x);
  for (int64_t i = threadIdx.y * kTile + threadIdx.x; i < tiles; i += kThreads) {
    mine[0] += first[2 * i];
    mine[1] += first[2 * i + 1];
  }
  const double l1_sum = block_sum<double>(&sums[0], mine[0]);
  const double ssim_sum = block_sum<double>(&sums[0], mine[1]);
  if (threadIdx.x != 0 || threadIdx.y != 0) return;
  const Scales scale = scales[blockIdx.x];
  const double l1_mean = l1_sum * scale.l1;
  const double ssim_mean = scale.ssim > 0 ? ssim_sum * scale.ssim : 1.0;
  l1[blockIdx.x] = static_cast<T>(l1_mean);
  ssim[blockIdx.x] = static_cast<T>(ssim_mean);
  loss[blockIdx.x] = static_cast<T>(weights.l1 * l1_mean - weights.ssim * (1.0 - ssim_mean));
}

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 2)
    gradient_kernel(LossImages<T> in, const T* derivatives, const Scales* scales,
                    LossWeights weights, T* gradient) {
  FL_SHARED_2D(T, tile, 3, kReach * kReach);
  FL_SHARED_2D(T, rows, 3, kReach * kTile);
  constexpr T window[kWindow] = FL_SSIM_WINDOW;
  const TileOrigin o = tile_origin(in);
  const ImageLayout& l = in.layout;
  const int64_t plane = l.batch * l.channels * l.height * l.width;
  const int thread = threadIdx.y * kTile + threadIdx.x;
  for (int i = thread; i < kReach * kReach; i += kThreads) {
    const int64_t y = o.y + i / kReach - kWindowRadius, x = o.x + i % kReach - kWindowRadius;
    const bool inside = y >= 0 && x >= 0 && y < l.height && x < l.width;
    const int64_t index = inside ? value_index(in, o, y, x) : 0;
    FL_UNROLL
    for (int q = 0; q < 3; ++q) tile[q][i] = inside ? derivatives[q * plane + index] : T(0);
  }
  __syncthreads();
  for (int i = thread; i < kReach * kTile; i += kThreads) {
    FL_UNROLL
    for (int q = 0; q < 3; ++q) {
      T s = T(0);
      FL_UNROLL
      for (int k = 0; k < kWindow; ++k)
        s += window[k] * tile[q][i / kTile * kReach + i % kTile + k];
      rows[q][i] = s;
    }
  }
  __syncthreads();
  const int64_t y = o.y + threadIdx.y, x = o.x + threadIdx.x;
  if (y >= l.height || x >= l.width) return;
  T s[3] = {};
  FL_UNROLL
  for (int k = 0; k < kWindow; ++k) FL_UNROLL
  for (int q = 0; q < 3; ++q) s[q] += window[k] * rows[q][(threadIdx.y + k) * kTile + threadIdx.x];
  const int64_t index = value_index(in, o, y, x);
  if (!kept(in, o, y, x)) {
    gradient[index] = T(0);
    return;
  }
  const T vx = in.image[index], vy = read_target(in, index), difference = vx - vy;
  const T sign = difference > T(0) ? T(1) : (difference < T(0) ? T(-1) : difference - difference);
  const Scales scale = scales[o.batch];
  gradient[index] =
      static_cast<T>(weights.l1 * scale.l1) * sign +
      static_cast<T>(weights.ssim * scale.ssim) * (s[0] + T(2) * (vx * s[1] + difference * s[2]));
}

struct LossResult {
  Tensor loss, l1, ssim, gradient;
};

template <typename T>
void launch_loss(const LossImages<T>& in, LossWeights weights, const LossResult& r,
                 bool with_gradient) {
  const ImageLayout& s = in.layout;
  const int64_t planes = s.batch * s.channels, tiles = in.tiles_x * in.tiles_y;
  const Stream stream = current_stream(r.l1.get_device_index());
  Tensor scales = new_empty(r.l1, {s.batch, 2}, ScalarType::Double);
  Tensor tile_sums = new_empty(r.l1, {planes * tiles, 2}, ScalarType::Double);
  Tensor derivatives = new_empty(r.l1, {with_gradient ? 3 * planes * s.height * s.width : 0});
  Scales* scale = static_cast<Scales*>(scales.mutable_data_ptr());
  const dim3 block(kTile, kTile);
  FL_LAUNCH((count_kernel<T>), s.batch, kCountThreads, 0, stream, in, scale);
  FL_LAUNCH((similarity_kernel<T>), planes * tiles, block, 0, stream, in,
            with_gradient ? output<T>(derivatives) : nullptr, output<double>(tile_sums));
  FL_LAUNCH((mean_kernel<T>), s.batch, block, 0, stream, input<double>(tile_sums),
            s.channels * tiles, scale, weights, output<T>(r.loss), output<T>(r.l1),
            output<T>(r.ssim));
  if (!with_gradient) return;
  FL_LAUNCH((gradient_kernel<T>), planes * tiles, block, 0, stream, in, input<T>(derivatives),
            scale, weights, output<T>(r.gradient));
}

LossResult evaluate(Tensor& image, Tensor& target, std::optional<Tensor>& mask, bool channels_last,
                    bool valid, LossWeights weights, bool with_gradient, const char* op) {
  const ImageLayout layout = check_images(image, target, mask, channels_last, valid, op);
  dense_all(image, target);
  make_dense(mask);
  const LossResult result{new_zeros(image, {layout.batch}), new_zeros(image, {layout.batch}),
                          torch::stable::fill_(new_empty(image, {layout.batch}), 1.0),
                          with_gradient ? torch::stable::empty_like(image) : new_empty(image, {0})};
  if (image.numel() == 0) return result;
  const DeviceGuard guard(image.get_device_index());
  const bool bytes = target.scalar_type() == ScalarType::Byte;
  dispatch_float(image, [&](auto zero) {
    using T = decltype(zero);
    const LossImages<T> in{input<T>(image),
                           bytes ? nullptr : input<T>(target),
                           bytes ? input<uint8_t>(target) : nullptr,
                           optional_input<uint8_t>(mask),
                           layout,
                           channels_last,
                           (layout.width + kTile - 1) / kTile,
                           (layout.height + kTile - 1) / kTile};
    launch_loss(in, weights, result, with_gradient);
  });
  return result;
}

std::tuple<Tensor, Tensor> ssim_cuda(Tensor image, Tensor target, std::optional<Tensor> mask,
                                     bool channels_last, bool valid, bool with_gradient) {
  const LossResult r =
      evaluate(image, target, mask, channels_last, valid, {0.0, 1.0}, with_gradient, "ssim");
  return {r.ssim, r.gradient};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> image_loss_cuda(Tensor image, Tensor target,
                                                           std::optional<Tensor> mask,
                                                           bool channels_last, bool valid,
                                                           double ssim_weight, bool with_gradient) {
  const LossResult r = evaluate(image, target, mask, channels_last, valid,
                                {1.0 - ssim_weight, -ssim_weight}, with_gradient, "image_loss");
  return {r.loss, r.l1, r.ssim, r.gradient};
}

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("ssim", TORCH_BOX(&ssim_cuda));
  m.impl("image_loss", TORCH_BOX(&image_loss_cuda));
}

}  // namespace fl::training
