// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the noise: threads over splats. Most are opaque and cost one exponential.
#include "core/parallel.h"
#include "core/registration.h"
#include "training/noise_args.h"

namespace fl::training {
namespace {

constexpr int64_t kChunk = 4096;

void splat_noise_cpu(Tensor means, Tensor quats, Tensor log_scales, Tensor opacity_logits,
                     double strength, int64_t seed, int64_t step) {
  check_noise(means, quats, log_scales, opacity_logits);
  dense_all(quats, log_scales, opacity_logits);
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    const auto args = noise_args<T>(means, quats, log_scales, opacity_logits, strength, seed, step);
    parallel_for(0, means.size(0), kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) add_noise(args, i);
    });
  });
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("splat_noise_", TORCH_BOX(&splat_noise_cpu)); }

}  // namespace fl::training
