// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the VDB operators. grid_ops.py and walk_ops.py document every argument.
#include "core/registration.h"

// Rays through grids: walk_ops.py.
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "vdb_sample(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, Tensor aabbs, "
      "Tensor rays_o, Tensor rays_d, Tensor near, Tensor far, float step, float cone_angle, "
      "bool exact, int limit) -> "
      "(Tensor ray_indices, Tensor t_starts, Tensor t_ends, Tensor packed_info)");
  m.def(
      "vdb_sample_dense(Tensor binaries, Tensor aabbs, Tensor rays_o, Tensor rays_d, Tensor near, "
      "Tensor far, float step, float cone_angle, int limit) -> "
      "(Tensor ray_indices, Tensor t_starts, Tensor t_ends, Tensor packed_info)");
}
