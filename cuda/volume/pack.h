// SPDX-License-Identifier: Apache-2.0
//
// From the ray of each sample to where each ray's samples lie.
#pragma once

#include "core/portable.h"

namespace fl::volume {

struct PackArgs {
  const int64_t* ray_indices;  // [n_samples], ascending
  int64_t* packed;             // [n_rays, 2]: start, count
  int64_t n_samples, n_rays;
};

// The first sample of a ray or of one behind it.
FL_HD int64_t first_of_ray(const PackArgs& a, int64_t ray) {
  int64_t low = 0, high = a.n_samples;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (a.ray_indices[middle] < ray)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace fl::volume
