// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of sampling: a thread a point. The gradient to values is a sum over the points
// around each: contributions are sorted by value, stably, and the first thread of each run adds the
// run up in order, so that the sum is the same in every run of the program.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/grid_sample_entry.h"

namespace fl::vdb {
namespace {

constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_D int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

template <typename T>
FL_KERNEL sample_kernel(SampleArgs<T> a, T* out) {
  const int64_t i = this_thread();
  if (i < a.n) sample_point(a, i, out);
}

template <typename T>
FL_KERNEL points_kernel(SampleArgs<T> a, const T* gradient, T* g_points) {
  const int64_t i = this_thread();
  if (i < a.n) sample_point_vjp(a, gradient, i, g_points);
}

template <typename T>
FL_KERNEL contribution_kernel(SampleArgs<T> a, uint64_t* values, uint64_t* sources, T* weights) {
  const int64_t i = this_thread();
  if (i >= a.n) return;
  const Cell<T> cell = find_cell(a.m, a.leaf_offsets, a.level, a.points + 3 * i);
  for (int64_t c = 0; c < 8; ++c) {
    const bool stored = cell.index[c] >= 0 && cell.index[c] < a.n_values;
    values[8 * i + c] = static_cast<uint64_t>(stored ? cell.index[c] : a.n_values);
    sources[8 * i + c] = static_cast<uint64_t>(8 * i + c);
    weights[8 * i + c] = cell.weight(static_cast<int>(c));
  }
}

template <typename T>
FL_KERNEL sum_kernel(SampleArgs<T> a, const uint64_t* values, const uint64_t* sources,
                     const T* weights, const T* gradient, T* g_values) {
  const int64_t thread = this_thread();
  const int64_t n = 8 * a.n, k = thread / a.channels, channel = thread % a.channels;
  if (k >= n) return;
  const uint64_t value = values[k];
  if (value == static_cast<uint64_t>(a.n_values) || (k > 0 && values[k - 1] == value)) return;
  T sum = 0;
  for (int64_t j = k; j < n && values[j] == value; ++j) {
    const int64_t source = static_cast<int64_t>(sources[j]);
    sum += weights[source] * gradient[source / 8 * a.channels + channel];
  }
  g_values[value * a.channels + channel] = sum;
}

struct CudaSample {
  template <typename T>
  static void forward(const SampleArgs<T>& a, T* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((sample_kernel<T>), blocks_for(a.n), kThreads, 0,
              current_stream(like.get_device_index()), a, out);
  }

  template <typename T>
  static void points(const SampleArgs<T>& a, const T* gradient, T* g_points, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((points_kernel<T>), blocks_for(a.n), kThreads, 0,
              current_stream(like.get_device_index()), a, gradient, g_points);
  }

  template <typename T>
  static void values(const SampleArgs<T>& a, const T* gradient, T* g_values, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = 8 * a.n;
    zero_async(g_values, sizeof(T) * a.n_values * a.channels, stream);
    const Scratch keys(sizeof(uint64_t) * 2 * n), sources(sizeof(uint64_t) * 2 * n);
    const Scratch weights(sizeof(T) * n);
    uint64_t *key = keys.data<uint64_t>(), *source = sources.data<uint64_t>();
    FL_LAUNCH((contribution_kernel<T>), blocks_for(a.n), kThreads, 0, stream, a, key, source,
              weights.data<T>());
    sort_pairs(key, key + n, source, source + n, n, 0, value_bits(a.n_values), stream);
    FL_LAUNCH((sum_kernel<T>), blocks_for(n * a.channels), kThreads, 0, stream, a, key + n,
              source + n, weights.data<T>(), gradient, g_values);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_sample", TORCH_BOX(&vdb_sample<CudaSample>));
  m.impl("vdb_sample_backward", TORCH_BOX(&vdb_sample_backward<CudaSample>));
}

}  // namespace fl::vdb
