// SPDX-License-Identifier: Apache-2.0
//
// Segments on CUDA: rows are sorted by segment with a stable sort, so that every sum has one order.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/rows_cuda.h"
#include "sparse/segment_entry.h"
#include "sparse/segment_reduce.h"

namespace fl::sparse {
namespace {

constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_D int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

FL_KERNEL key_kernel(SortArgs a, uint32_t* keys, int32_t* rows) {
  const int64_t i = this_thread();
  if (i >= a.n) return;
  keys[i] = a.key(i);
  rows[i] = static_cast<int32_t>(i);
}

// The first place of a segment or of one behind it.
FL_KERNEL start_kernel(SortArgs a, const uint32_t* keys) {
  const int64_t segment = this_thread();
  if (segment > a.n_segments) return;
  int64_t low = 0, high = a.n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < segment)
      low = middle + 1;
    else
      high = middle;
  }
  a.starts[segment] = low;
}

template <typename T>
FL_KERNEL put_kernel(PickedArgs<T> a) {
  const int64_t i = this_row();
  if (i >= a.n) return;
  for (int64_t channel = threadIdx.x; channel < a.channels; channel += blockDim.x)
    a.put(i, channel);
}

struct CudaSegment {
  static void sort(const SortArgs& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const Scratch keys(sizeof(uint32_t) * 2 * a.n), rows(sizeof(int32_t) * a.n);
    uint32_t *const key = keys.data<uint32_t>(), *const sorted = key + (a.is_sorted ? 0 : a.n);
    FL_LAUNCH(key_kernel, blocks_for(a.n), kThreads, 0, stream, a, key,
              a.is_sorted ? a.order : rows.data<int32_t>());
    if (!a.is_sorted)
      sort_pairs(key, sorted, rows.data<int32_t>(), a.order, a.n, 0, a.key_bits(), stream);
    FL_LAUNCH(start_kernel, blocks_for(a.n_segments + 1), kThreads, 0, stream, a, sorted);
  }

  template <typename T>
  static void reduce(const ReduceArgs<T>& a, const Tensor& like) {
    reduce_on_gpu(a, like);
  }

  template <typename T>
  static void put(const PickedArgs<T>& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const RowShape shape(a.channels, 1);
    FL_LAUNCH((put_kernel<T>), shape.blocks(a.n), shape.block, 0,
              current_stream(like.get_device_index()), a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_segment_sort", TORCH_BOX(&sparse_segment_sort<CudaSegment>));
  m.impl("sparse_segment_reduce", TORCH_BOX(&sparse_segment_reduce<CudaSegment>));
  m.impl("sparse_segment_picked_backward", TORCH_BOX(&sparse_segment_picked_backward<CudaSegment>));
}

}  // namespace fl::sparse
