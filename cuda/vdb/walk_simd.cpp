// SPDX-License-Identifier: Apache-2.0
//
// Runs of samples, written out. A contracted multiply-add changes nothing here: both the product
// and the sum are exact.
#include "vdb/walk_simd.h"

#include "core/portable.h"
#include "core/simd.h"

namespace fl {
namespace FL_ISA {
namespace {

FL_SIMD void write_starts(const vdb::Run& run, int64_t ray, int64_t* FL_RESTRICT rays,
                          float* FL_RESTRICT starts, float* FL_RESTRICT ends) {
  const int count = run.count;
  for (int j = 0; j < count; ++j) {
    const float start = run.start + static_cast<float>(j) * run.inc;
    starts[j] = start;
    ends[j] = start + run.dt;
  }
  for (int j = 0; j < count; ++j) rays[j] = ray;
}

}  // namespace

void expand_runs(const vdb::Run* runs, const int32_t* runs_per_ray, int64_t first_ray, int64_t rays,
                 const vdb::RunTarget& target) {
  int64_t at = 0;
  for (int64_t r = 0; r < rays; ++r)
    for (int32_t k = 0; k < runs_per_ray[r]; ++k, ++runs) {
      write_starts(*runs, first_ray + r, target.ray_indices + at, target.t_starts + at,
                   target.t_ends + at);
      at += runs->count;
    }
}

}  // namespace FL_ISA
}  // namespace fl
