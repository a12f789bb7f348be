// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of interpolation: a thread a run of channels of a query; for the gradient to
// weights a warp a query.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "sparse/interpolate_entry.h"
#include "sparse/segment_cuda.h"

namespace fl::sparse {
namespace {

constexpr int kEntriesAtOnce = 8;
constexpr unsigned kFullWarp = 0xffffffffu;

template <int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) interpolate_kernel(InterpolateArgs<T> a, T* out) {
  const int64_t query = this_row();
  if (query >= a.queries) return;
  const int64_t step = static_cast<int64_t>(blockDim.x) * V;
  for (int64_t channel = static_cast<int64_t>(threadIdx.x) * V; channel < a.channels;
       channel += step) {
    Sum<T> sums[V] = {};
    bool any = false;  // one row alone is copied, whatever its bits
    for (int64_t first = 0; first < a.taps; first += kEntriesAtOnce) {
      int64_t rows[kEntriesAtOnce];
      Sum<T> weights[kEntriesAtOnce];
      Pack<T, V> packs[kEntriesAtOnce];
      FL_UNROLL
      for (int k = 0; k < kEntriesAtOnce; ++k) {
        const int64_t entry = query * a.taps + first + k;
        const bool inside = first + k < a.taps;
        rows[k] = inside ? a.row(entry) : -1;
        weights[k] = inside ? a.weight(entry) : Sum<T>(0);
      }
      FL_UNROLL
      for (int k = 0; k < kEntriesAtOnce; ++k)
        packs[k] =
            rows[k] >= 0 ? load_pack<V>(a.features + rows[k] * a.channels + channel) : Pack<T, V>{};
      FL_UNROLL
      for (int k = 0; k < kEntriesAtOnce; ++k) {
        if (rows[k] < 0) continue;
        FL_UNROLL
        for (int v = 0; v < V; ++v) {
          const Sum<T> value = widen(packs[k].v[v]);
          const Sum<T> term = a.weights != nullptr ? weights[k] * value : value;
          sums[v] = any ? sums[v] + term : term;
        }
        any = true;
      }
    }
    store_sums<V>(out + query * a.channels + channel, sums);
  }
}

template <int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2)
    weights_kernel(InterpolateArgs<T> a, const T* gradient, Sum<T>* g_weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t query = static_cast<int64_t>(blockIdx.x) * (kRowThreads / 32) + threadIdx.x / 32;
  if (query >= a.queries) return;
  const T* g = gradient + query * a.channels;
  for (int64_t entry = query * a.taps; entry < (query + 1) * a.taps; ++entry) {
    const int64_t row = a.row(entry);
    Sum<T> sum = 0;
    for (int64_t channel = static_cast<int64_t>(lane) * V; row >= 0 && channel < a.channels;
         channel += 32 * V) {
      const Pack<T, V> values = load_pack<V>(a.features + row * a.channels + channel);
      const Pack<T, V> gradients = load_pack<V>(g + channel);
      FL_UNROLL
      for (int v = 0; v < V; ++v) sum += widen(values.v[v]) * widen(gradients.v[v]);
    }
    for (int distance = 16; distance > 0; distance /= 2)
      sum += __shfl_xor_sync(kFullWarp, sum, distance);
    if (lane == 0) g_weights[entry] = sum;
  }
}

struct CudaInterpolate {
  template <typename T>
  static void forward(const InterpolateArgs<T>& a, T* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    dispatch_width<T>(a.channels, is_aligned(a.features), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const RowShape shape(a.channels, kWidth);
      FL_LAUNCH((interpolate_kernel<kWidth, T>), shape.blocks(a.queries), shape.block, 0,
                current_stream(like.get_device_index()), a, out);
    });
  }

  template <typename T>
  static void weights(const InterpolateArgs<T>& a, const T* gradient, Sum<T>* g_weights,
                      const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const int64_t blocks = (a.queries + kRowThreads / 32 - 1) / (kRowThreads / 32);
    dispatch_width<T>(a.channels, is_aligned(a.features) && is_aligned(gradient), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      FL_LAUNCH((weights_kernel<kWidth, T>), blocks, kRowThreads, 0,
                current_stream(like.get_device_index()), a, gradient, g_weights);
    });
  }

  template <typename T>
  static void features(const ReduceArgs<T>& a, const Tensor& like) {
    reduce_on_gpu(a, like);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_interpolate", TORCH_BOX(&sparse_interpolate<CudaInterpolate>));
  m.impl("sparse_interpolate_weights_backward",
         TORCH_BOX(&sparse_interpolate_weights_backward<CudaInterpolate>));
  m.impl("sparse_interpolate_features_backward",
         TORCH_BOX(&sparse_interpolate_features_backward<CudaInterpolate>));
}

}  // namespace fl::sparse
