// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of every Work: threads over rays.
#pragma once

#include "core/check.h"
#include "core/parallel.h"
#include "volume/rays.h"

namespace fl::volume {

struct CpuBackend {
  // Checks packed_info, and says whether the rays cover all samples.
  static bool covers(const Rays& rays, const char* op) {
    if (rays.packed == nullptr) return true;
    int64_t reached = 0, covered = 0;
    for (int64_t ray = 0; ray < rays.n_rays; ++ray) {
      const int64_t begin = rays.packed[2 * ray], count = rays.packed[2 * ray + 1];
      if (count == 0) continue;
      STD_TORCH_CHECK(count > 0 && begin >= reached && begin <= rays.total - count, op,
                      ": packed_info: expected starts and counts that ascend within ", rays.total,
                      " samples, got (", begin, ", ", count, ") for ray ", ray);
      reached = begin + count;
      covered += count;
    }
    return covered == rays.total;
  }

  template <typename Work>
  static void run(const Rays& rays, const Work& work, const Tensor&) {
    constexpr int64_t samples_at_once = 4096;
    const int64_t mean = rays.n_rays > 0 ? rays.total / rays.n_rays + 1 : 1;
    parallel_for(0, rays.n_rays, samples_at_once / mean + 1, [&](int64_t begin, int64_t end) {
      for (int64_t ray = begin; ray < end; ++ray) work.template run<SerialWalk>(ray, rays.run(ray));
    });
  }
};

}  // namespace fl::volume
