// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels take: walk_cells_simd.cpp the bits of a small grid, for rays that walk
// sixteen at a time, and walk_simd.cpp the runs of one ray and where its samples go.
#pragma once

#include "core/isa.h"
#include "vdb/walk_runs.h"

namespace fl::vdb {

constexpr int kMostCells = 512;   // along an axis, of a grid that is walked cell by cell
constexpr int kRaysAtOnce = 256;  // at most, in one call

// One level, a bit a cell: bit x slice + y row + z, in words of 32.
struct CellGrid {
  const uint32_t* bits;
  float box[6];
  int resolution[3];
  int32_t row, slice;
};

// An occupied part of a ray.
struct Part {
  float begin, end;
};

// The parts of ray i of a call, in order: counts[i] of them, from i * stride on.
struct PartTarget {
  Part* parts;
  int32_t* counts;
  int64_t stride;
};

// The most parts that a ray can have: every other cell of its way.
inline int64_t most_parts(const int* resolution) {
  return (int64_t{resolution[0]} + resolution[1] + resolution[2]) / 2 + 1;
}

// All parts of the rays from `begin` to `end`; returns the first that is no ray, or `end`. Times
// are those of walk_of_steps, or those of walk_in_index_space, for a box of the grid's own cells.
using FindParts = int64_t(const CellGrid& grid, const RayArgs& rays, int64_t begin, int64_t end,
                          const PartTarget& target);

// Bits of a dense table of bytes, [resolution], z fastest, for the slices x from `first` to `last`.
using PackCells = void(const uint8_t* cells, const CellGrid& grid, int64_t first, int64_t last,
                       uint32_t* bits);

struct RunTarget {
  int64_t* ray_indices;
  float *t_starts, *t_ends;
};

using ExpandRuns = void(const Run* runs, const int32_t* runs_per_ray, int64_t first_ray,
                        int64_t rays, const RunTarget& target);

}  // namespace fl::vdb

namespace fl {
FL_ISA_DECLARE(vdb::FindParts find_parts)
FL_ISA_DECLARE(vdb::FindParts find_parts_in_index_space)
FL_ISA_DECLARE(vdb::PackCells pack_cells)
FL_ISA_DECLARE(vdb::ExpandRuns expand_runs)
}  // namespace fl
