// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the plan: masks, one stable radix sort of all splits, one pass over the result.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/convolution_plan.h"

namespace fl::sparse {
namespace {

constexpr int kMaskThreads = 256;

FL_KERNEL FL_LAUNCH_BOUNDS(kMaskThreads, 1)
    masks_kernel(PlanShape shape, const int32_t* FL_RESTRICT table, uint64_t* FL_RESTRICT keys,
                 int32_t* FL_RESTRICT rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMaskThreads + threadIdx.x;
  const int64_t split = blockIdx.y;
  if (row >= shape.n_out) return;
  const int64_t first = shape.first_tap(split), end = shape.end_tap(split);
  uint64_t mask = 0;
  for (int64_t tap = first; tap < end; ++tap)
    mask |= static_cast<uint64_t>(table[tap * shape.n_out + row] >= 0) << (tap - first);
  keys[split * shape.n_out + row] = shape.key(mask, split);
  rows[split * shape.n_out + row] = static_cast<int32_t>(row);
}

// A block a tile, a thread a place.
FL_KERNEL FL_LAUNCH_BOUNDS(128, 1)
    places_kernel(PlanShape shape, const int32_t* FL_RESTRICT table,
                  const uint64_t* FL_RESTRICT keys, const int32_t* FL_RESTRICT order,
                  int32_t* FL_RESTRICT places, int32_t* FL_RESTRICT tile_masks,
                  int32_t* FL_RESTRICT permuted) {
  FL_SHARED(unsigned, warp_masks, 4);
  const int64_t place = static_cast<int64_t>(blockIdx.x) * shape.tile_rows + threadIdx.x;
  const int64_t split = blockIdx.y, base = split * shape.n_out;
  const bool exists = place < shape.n_out;
  const unsigned mask = exists ? shape.mask(keys[base + place]) : 0u;
  const unsigned joined = __reduce_or_sync(0xffffffffu, mask);
  if (threadIdx.x % 32 == 0) warp_masks[threadIdx.x / 32] = joined;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned tile_mask = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) tile_mask |= warp_masks[warp];
    tile_masks[split * shape.tiles + blockIdx.x] = static_cast<int32_t>(tile_mask);
  }
  if (!exists) return;
  const int32_t row = order[base + place];
  places[base + row] = mask != 0 ? static_cast<int32_t>(place) : -1;
  const int64_t first = shape.first_tap(split), end = shape.end_tap(split);
  for (int64_t tap = first; tap < end; ++tap)
    permuted[tap * shape.n_out + place] =
        mask >> (tap - first) & 1u ? table[tap * shape.n_out + row] : -1;
}

struct CudaPlan {
  static void run(const PlanShape& shape, const Tensor& table, int32_t* order, int32_t* tile_masks,
                  int32_t* permuted) {
    const DeviceGuard guard(table.get_device_index());
    const Stream stream = current_stream(table.get_device_index());
    const int64_t n = shape.splits * shape.n_out;
    const Scratch keys(n * sizeof(uint64_t)), sorted(n * sizeof(uint64_t));
    const Scratch rows(n * sizeof(int32_t));
    const unsigned splits = static_cast<unsigned>(shape.splits);
    const dim3 grid(static_cast<unsigned>((shape.n_out + kMaskThreads - 1) / kMaskThreads), splits);
    FL_LAUNCH(masks_kernel, grid, kMaskThreads, 0, stream, shape, input<int32_t>(table),
              keys.data<uint64_t>(), rows.data<int32_t>());
    sort_pairs(keys.data<uint64_t>(), sorted.data<uint64_t>(), rows.data<int32_t>(), order, n, 0,
               shape.key_bits(), stream);
    FL_LAUNCH(places_kernel, dim3(static_cast<unsigned>(shape.tiles), splits), shape.tile_rows, 0,
              stream, shape, input<int32_t>(table), sorted.data<uint64_t>(), order, order + n,
              tile_masks, permuted);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("sparse_conv_plan", TORCH_BOX(&sparse_conv_plan<CudaPlan>)); }

}  // namespace fl::sparse
