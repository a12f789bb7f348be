// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the noise: one thread a splat.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "training/noise_args.h"

namespace fl::training {
namespace {

constexpr int kThreads = 256;

template <typename T>
FL_KERNEL noise_kernel(NoiseArgs<T> args, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) add_noise(args, i);
}

void splat_noise_cuda(Tensor means, Tensor quats, Tensor log_scales, Tensor opacity_logits,
                      double strength, int64_t seed, int64_t step) {
  check_noise(means, quats, log_scales, opacity_logits);
  dense_all(quats, log_scales, opacity_logits);
  const DeviceGuard guard(means.get_device_index());
  const Stream stream = current_stream(means.get_device_index());
  const int64_t n = means.size(0);
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    const auto args = noise_args<T>(means, quats, log_scales, opacity_logits, strength, seed, step);
    FL_LAUNCH((noise_kernel<T>), (n + kThreads - 1) / kThreads, kThreads, 0, stream, args, n);
  });
}

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("splat_noise_", TORCH_BOX(&splat_noise_cuda)); }

}  // namespace fl::training
