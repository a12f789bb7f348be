// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the voxels around points: a thread a point.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "sparse/trilinear_entry.h"

namespace fl::sparse {
namespace {

constexpr int kThreads = 256;

template <typename Work>
FL_KERNEL point_kernel(Work work, int64_t n) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (point < n) work(point);
}

struct CudaTrilinear {
  template <typename Work>
  static void each(int64_t n, const Tensor& like, const Work& work) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((point_kernel<Work>), (n + kThreads - 1) / kThreads, kThreads, 0,
              current_stream(like.get_device_index()), work, n);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_corners", TORCH_BOX(&sparse_corners<CudaTrilinear>));
  m.impl("sparse_corner_weights", TORCH_BOX(&sparse_corner_weights<CudaTrilinear>));
  m.impl("sparse_corner_weights_backward",
         TORCH_BOX(&sparse_corner_weights_backward<CudaTrilinear>));
}

}  // namespace fl::sparse
