// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernel of walk_simd.cpp takes: the runs of one ray and where its samples go.
#pragma once

#include "core/isa.h"
#include "vdb/walk_runs.h"

namespace fl::vdb {

struct RunTarget {
  int64_t* ray_indices;
  float *t_starts, *t_ends;
};

using ExpandRuns = void(const Run* runs, const int32_t* runs_per_ray, int64_t first_ray,
                        int64_t rays, const RunTarget& target);

}  // namespace fl::vdb

namespace fl {
FL_ISA_DECLARE(vdb::ExpandRuns expand_runs)
}  // namespace fl
