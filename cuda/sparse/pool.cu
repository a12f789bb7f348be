// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of pooling: a thread a run of channels of a row, which walks down the row's column
// of the table. The rows of several taps are asked for before the first is needed.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "sparse/pool_entry.h"
#include "sparse/rows_cuda.h"

namespace fl::sparse {
namespace {

constexpr int kTapsAtOnce = 8;

template <int V, typename T>
struct Pooled {
  Sum<T> sums[V];
  int16_t taps[V];
  int count;
};

template <PoolKind kKind, int V, typename T>
FL_D void join(Pooled<V, T>& pooled, const Pack<T, V>& pack, const Pack<int16_t, V>& picks,
               int tap) {
  FL_UNROLL
  for (int k = 0; k < V; ++k) {
    const Sum<T> value = widen(pack.v[k]), held = pooled.sums[k];
    if constexpr (kKind == PoolKind::max) {
      const bool better = pooled.count == 0 || value > held || (value != value && held == held);
      pooled.sums[k] = better ? value : held;
      pooled.taps[k] = better ? static_cast<int16_t>(tap) : pooled.taps[k];
    } else if constexpr (kKind == PoolKind::picked) {
      pooled.sums[k] += picks.v[k] == tap ? value : Sum<T>(0);
    } else {
      pooled.sums[k] += value;
    }
  }
  ++pooled.count;
}

template <PoolKind kKind, int V, typename T>
FL_D void finish(const PoolArgs<T>& a, int64_t row, int64_t channel, Pooled<V, T>& pooled) {
  const int64_t at = row * a.channels + channel;
  if constexpr (kKind == PoolKind::mean) {
    FL_UNROLL
    for (int k = 0; k < V; ++k) pooled.sums[k] /= Sum<T>(pooled.count > 0 ? pooled.count : 1);
    if (channel == 0) a.kept[row] = static_cast<int16_t>(pooled.count);
  }
  if constexpr (kKind == PoolKind::max) {
    Pack<int16_t, V> taps;
    FL_UNROLL
    for (int k = 0; k < V; ++k) taps.v[k] = pooled.taps[k];
    store_pack<V>(a.kept + at, taps);
  }
  store_sums<V>(a.to + at, pooled.sums);
}

template <PoolKind kKind, int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) pool_kernel(PoolArgs<T> a) {
  const int64_t row = this_row();
  if (row >= a.n_to) return;
  const int64_t step = static_cast<int64_t>(blockDim.x) * V;
  for (int64_t channel = static_cast<int64_t>(threadIdx.x) * V; channel < a.channels;
       channel += step) {
    Pooled<V, T> pooled;
    pooled.count = 0;
    for (int k = 0; k < V; ++k) pooled.sums[k] = Sum<T>(0), pooled.taps[k] = -1;
    for (int first = 0; first < a.map.n_taps; first += kTapsAtOnce) {
      int64_t from[kTapsAtOnce];
      Pack<T, V> packs[kTapsAtOnce];
      Pack<int16_t, V> picks[kKind == PoolKind::picked ? kTapsAtOnce : 1] = {};
      FL_UNROLL
      for (int k = 0; k < kTapsAtOnce; ++k) {
        const int tap = first + k;
        from[k] = tap < a.map.n_taps ? a.map.table[tap * a.n_to + row] : -1;
        if (from[k] >= a.n_from) from[k] = -1;
      }
      FL_UNROLL
      for (int k = 0; k < kTapsAtOnce; ++k) {
        const int64_t at = from[k] * a.channels + channel;
        packs[k] = from[k] >= 0 ? load_pack<V>(a.from + at) : Pack<T, V>{};
        if constexpr (kKind == PoolKind::picked)
          picks[k] = from[k] >= 0 ? load_pack<V>(a.picks + at) : Pack<int16_t, V>{};
      }
      FL_UNROLL
      for (int k = 0; k < kTapsAtOnce; ++k)
        if (from[k] >= 0)
          join<kKind>(pooled, packs[k], picks[kKind == PoolKind::picked ? k : 0], first + k);
    }
    finish<kKind>(a, row, channel, pooled);
  }
}

struct CudaPool {
  static int64_t check_map(const PoolMapInput& in, int64_t n_to, const char* op) {
    check_shape(in.table, {-1, n_to}, op, "table");
    return in.table.size(0);
  }

  template <PoolKind kKind, typename T>
  static void launch_kind(const PoolArgs<T>& a, Stream stream) {
    dispatch_width<T>(a.channels, is_aligned(a.from) && is_aligned(a.picks), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const RowShape shape(a.channels, kWidth);
      FL_LAUNCH((pool_kernel<kKind, kWidth, T>), shape.blocks(a.n_to), shape.block, 0, stream, a);
    });
  }

  template <typename T>
  static void run(const PoolArgs<T>& a, const Tensor& like, const char*) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    if (a.kind == PoolKind::sum)
      launch_kind<PoolKind::sum>(a, stream);
    else if (a.kind == PoolKind::mean)
      launch_kind<PoolKind::mean>(a, stream);
    else if (a.kind == PoolKind::max)
      launch_kind<PoolKind::max>(a, stream);
    else
      launch_kind<PoolKind::picked>(a, stream);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_pool", TORCH_BOX(&sparse_pool<CudaPool>));
  m.impl("sparse_pool_backward", TORCH_BOX(&sparse_pool_backward<CudaPool>));
}

}  // namespace fl::sparse
