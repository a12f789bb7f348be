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
  m.def(
      "vdb_traverse(Tensor binaries, Tensor aabbs, Tensor rays_o, Tensor rays_d, Tensor near, "
      "Tensor far, Tensor? t_sorted, Tensor? t_indices, Tensor? hits, Tensor? rays_mask, "
      "float step, float cone_angle, int most, int limit) -> "
      "(Tensor ray_indices, Tensor t_starts, Tensor t_ends, Tensor joined, Tensor packed_info, "
      "Tensor terminate)");
  m.def(
      "vdb_pieces(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, Tensor rays_o, "
      "Tensor rays_d, Tensor near, Tensor far, bool voxels, int limit) -> "
      "(Tensor ray_indices, Tensor t_enter, Tensor t_exit, Tensor ijk, Tensor packed_info)");
}
