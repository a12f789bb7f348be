// SPDX-License-Identifier: Apache-2.0
//
// Packing as torch sees it: checks and outputs, the work left to a Backend.
#pragma once

#include "core/check.h"
#include "volume/pack.h"

namespace fl::volume {

template <typename Backend>
Tensor volume_pack_info(Tensor ray_indices, int64_t n_rays) {
  const char* op = "volume_pack_info";
  check_shape(ray_indices, {-1}, op, "ray_indices");
  check_dtype(ray_indices, ScalarType::Long, op, "ray_indices");
  STD_TORCH_CHECK(n_rays >= 0, op, ": n_rays: expected at least 0, got ", n_rays);
  make_dense(ray_indices);
  const Tensor packed = new_empty(ray_indices, {n_rays, 2});
  Backend::run(
      PackArgs{input<int64_t>(ray_indices), output<int64_t>(packed), ray_indices.size(0), n_rays},
      ray_indices);
  return packed;
}

}  // namespace fl::volume
