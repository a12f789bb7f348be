// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernel of grid_build_simd.cpp takes: a few tops that follow one another along z.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fl::vdb {

constexpr int kPackedTops = 8;

// Of one top: the 16 leaves of a column (4x4x64 voxels), and whether the column holds a voxel.
// `words` of a column are written only where `occupied` is 1.
struct PackedTop {
  uint64_t words[256][16];
  uint8_t occupied[256];
};

struct PackArgs {
  const uint8_t* voxels;       // the first voxel of the first top
  int64_t stride_x, stride_y;  // in voxels
  int size[3];  // voxels from there to the end of the grid, at most 64, 64, 64 * tops
};

using PackTops = void(const PackArgs& args, PackedTop* out);
}  // namespace fl::vdb

namespace fl {
FL_ISA_DECLARE(vdb::PackTops pack_tops)
}  // namespace fl
