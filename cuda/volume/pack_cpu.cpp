// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of packing: one sweep over the samples, which writes where each ray begins, and one
// over the rays for their counts. The sweep also checks what it reads.
#include <atomic>

#include "core/parallel.h"
#include "core/registration.h"
#include "volume/pack_entry.h"

namespace fl::volume {
namespace {

constexpr int64_t kChunk = 1 << 15;

int64_t start_of(const PackArgs& a, int64_t ray) {
  return ray < a.n_rays ? a.packed[2 * ray] : a.n_samples;
}

struct CpuPack {
  static void run(const PackArgs& a, const Tensor&) {
    std::atomic<int64_t> bad{-1};
    parallel_for(0, a.n_samples, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t before = i > 0 ? a.ray_indices[i - 1] : -1, ray = a.ray_indices[i];
        if (ray < before || ray < 0 || ray >= a.n_rays) bad = i;
        if (ray == before || bad >= 0) continue;
        for (int64_t r = before + 1; r <= ray; ++r) a.packed[2 * r] = i;
      }
    });
    const int64_t where = bad;
    STD_TORCH_CHECK(where < 0, "volume_pack_info: ray_indices: expected ascending indices below ",
                    a.n_rays, ", got ", a.ray_indices[where < 0 ? 0 : where], " at ", where);
    const int64_t last = a.n_samples > 0 ? a.ray_indices[a.n_samples - 1] : -1;
    for (int64_t r = last + 1; r < a.n_rays; ++r) a.packed[2 * r] = a.n_samples;
    parallel_for(0, a.n_rays, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        a.packed[2 * r + 1] = start_of(a, r + 1) - a.packed[2 * r];
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("volume_pack_info", TORCH_BOX(&volume_pack_info<CpuPack>)); }

}  // namespace fl::volume
