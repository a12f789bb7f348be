// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the winning planes: a warp a pixel, lanes over planes. Two reductions: the least
// total and where it is first, in one key; then the least total away from it.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "match/winner_entry.h"

namespace fl::match {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullWarp = 0xffffffffu;

FL_D unsigned warp_least(unsigned value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const unsigned other = __shfl_xor_sync(kFullWarp, value, distance);
    value = other < value ? other : value;
  }
  return value;
}

FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 4) winner_kernel(WinnerArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (pixel >= a.pixels) return;
  const uint16_t* total = a.total + pixel * a.planes;
  unsigned key = 0xffffffffu;
  for (int d = lane; d < a.planes; d += 32) {
    const unsigned candidate = (static_cast<unsigned>(total[d]) << 16) | static_cast<unsigned>(d);
    key = candidate < key ? candidate : key;
  }
  const int best = static_cast<int>(warp_least(key) & 0xffffu);
  unsigned rival = 0xffffu;
  for (int d = lane; d < a.planes; d += 32) {
    const int apart = d > best ? d - best : best - d;
    if (apart > kSamePlanes && total[d] < rival) rival = total[d];
  }
  rival = warp_least(rival);
  if (lane == 0)
    store_winner(a, pixel,
                 finish_winner(total, a.cost + pixel * a.planes, a.planes, best,
                               rival == 0xffffu ? 0 : static_cast<int>(rival)));
}

struct CudaWinner {
  static void run(const WinnerArgs& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH(winner_kernel, (a.pixels + kWarps - 1) / kWarps, kThreads, 0,
              current_stream(like.get_device_index()), a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("match_winner", TORCH_BOX(&match_winner<CudaWinner>)); }

}  // namespace fl::match
