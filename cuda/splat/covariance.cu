// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of covariance matrices: a thread a Gaussian.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "splat/covariance_entry.h"

namespace fl::splat {
namespace {

constexpr int kThreads = 128;

template <typename T>
FL_KERNEL covariance_kernel(CovarianceArgs<T> a, T* matrices) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.M) covariance_one(a, i, matrices);
}

template <typename T>
FL_KERNEL covariance_backward_kernel(CovarianceArgs<T> a, const T* g_matrices, T* g_quats,
                                     T* g_scales) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.M) covariance_one_backward(a, g_matrices, i, g_quats, g_scales);
}

struct CudaCovariance {
  template <typename T>
  static void forward(const CovarianceArgs<T>& args, T* matrices, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((covariance_kernel<T>), (args.M + kThreads - 1) / kThreads, kThreads, 0,
              current_stream(like.get_device_index()), args, matrices);
  }
  template <typename T>
  static void backward(const CovarianceArgs<T>& args, const T* g_matrices, T* g_quats, T* g_scales,
                       const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((covariance_backward_kernel<T>), (args.M + kThreads - 1) / kThreads, kThreads, 0,
              current_stream(like.get_device_index()), args, g_matrices, g_quats, g_scales);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_covariance", TORCH_BOX(&splat_covariance<CudaCovariance>));
  m.impl("splat_covariance_backward", TORCH_BOX(&splat_covariance_backward<CudaCovariance>));
}

}  // namespace fl::splat
