// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of packing: a thread a ray, two binary searches.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "volume/pack_entry.h"

namespace fl::volume {
namespace {

constexpr int kPackThreads = 256;

FL_KERNEL pack_kernel(PackArgs a) {
  const int64_t ray = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  if (ray >= a.n_rays) return;
  const int64_t start = first_of_ray(a, ray);
  a.packed[2 * ray] = start;
  a.packed[2 * ray + 1] = first_of_ray(a, ray + 1) - start;
}

struct CudaPack {
  static void run(const PackArgs& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH(pack_kernel, (a.n_rays + kPackThreads - 1) / kPackThreads, kPackThreads, 0,
              current_stream(like.get_device_index()), a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("volume_pack_info", TORCH_BOX(&volume_pack_info<CudaPack>)); }

}  // namespace fl::volume
