// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of covariance matrices: threads over Gaussians.
#include "core/parallel.h"
#include "core/registration.h"
#include "splat/covariance_entry.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 4096;

struct CpuCovariance {
  template <typename T>
  static void forward(const CovarianceArgs<T>& args, T* matrices, const Tensor&) {
    parallel_for(0, args.M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) covariance_one(args, i, matrices);
    });
  }
  template <typename T>
  static void backward(const CovarianceArgs<T>& args, const T* g_matrices, T* g_quats, T* g_scales,
                       const Tensor&) {
    parallel_for(0, args.M, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        covariance_one_backward(args, g_matrices, i, g_quats, g_scales);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_covariance", TORCH_BOX(&splat_covariance<CpuCovariance>));
  m.impl("splat_covariance_backward", TORCH_BOX(&splat_covariance_backward<CpuCovariance>));
}

}  // namespace fl::splat
