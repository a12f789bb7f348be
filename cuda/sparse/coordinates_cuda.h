// SPDX-License-Identifier: Apache-2.0
//
// Bounds of coordinates on a GPU, for keys that are no wider than they need to be.
#pragma once

#include "core/portable.h"
#include "sparse/coordinates_entry.h"
#include "sparse/launch.h"

namespace fl::sparse {
namespace {

// The lowest value of each column as the highest of its complement, so that a start with zeros does
// for both: bits that sort as signed numbers do, inverted for the lowest.
struct Extents {
  uint32_t least[kMostColumns], most[kMostColumns];
};

constexpr uint32_t kSign = 0x80000000u;

// By all threads of a warp, whose rows are those of a stride over the grid.
FL_D void widen(const int32_t* coords, int64_t n, int columns, Extents* extents) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int c = 0; c < columns; ++c) {
    uint32_t least = 0, most = 0;
    for (int64_t i = this_thread(); i < n; i += step) {
      const uint32_t value = static_cast<uint32_t>(coords[i * columns + c]) ^ kSign;
      least = max(least, ~value);
      most = max(most, value);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      least = max(least, __shfl_xor_sync(0xFFFFFFFFu, least, lanes));
      most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, lanes));
    }
    if (threadIdx.x % 32 != 0) continue;
    atomicMax(extents->least + c, least);
    atomicMax(extents->most + c, most);
  }
}

inline Bounds decode(const Extents& extents, int columns) {
  Bounds bounds;
  for (int c = 0; c < columns; ++c) {
    bounds.low[c] = static_cast<int32_t>(~extents.least[c] ^ kSign);
    bounds.high[c] = static_cast<int32_t>(extents.most[c] ^ kSign);
  }
  return bounds;
}

FL_KERNEL bounds_kernel(const int32_t* coords, int64_t n, int columns, Extents* extents) {
  widen(coords, n, columns, extents);
}

// Waits.
inline Bounds read_bounds(const Tensor& coords, Stream stream) {
  const int64_t n = coords.size(0);
  const int columns = static_cast<int>(coords.size(1));
  if (n == 0) return {};
  const Scratch memory(sizeof(Extents));
  Extents found;
  zero_async(memory.data(), sizeof(Extents), stream);
  // Few blocks, so that there are few atomics.
  FL_LAUNCH(bounds_kernel, std::min<int64_t>(blocks_for(n), 2 * device_sm_count()), kThreads, 0,
            stream, input<int32_t>(coords), n, columns, memory.data<Extents>());
  copy_to_host(&found, memory.data(), sizeof(Extents), stream);
  return decode(found, columns);
}

}  // namespace
}  // namespace fl::sparse
