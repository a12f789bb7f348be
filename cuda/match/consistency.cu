// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of consistency: a thread a pixel.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "match/consistency_entry.h"

namespace fl::match {
namespace {

constexpr int kThreads = 256;

FL_KERNEL consistency_kernel(ConsistencyArgs a) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= static_cast<int64_t>(a.width) * a.height) return;
  a.agreement[pixel] =
      agreement_of(a, static_cast<int>(pixel % a.width), static_cast<int>(pixel / a.width));
}

struct CudaConsistency {
  static void run(const ConsistencyArgs& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const int64_t pixels = static_cast<int64_t>(a.width) * a.height;
    FL_LAUNCH(consistency_kernel, (pixels + kThreads - 1) / kThreads, kThreads, 0,
              current_stream(like.get_device_index()), a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("match_consistency", TORCH_BOX(&match_consistency<CudaConsistency>));
}

}  // namespace fl::match
