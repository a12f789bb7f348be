// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the VDB operators. grid_ops.py and walk_ops.py document every argument; `masks` there
// are three tensors and a resolution here.
#include "core/registration.h"

FL_LIBRARY_FRAGMENT(m) {
  // Grids, made, changed and read: grid_ops.py.
  m.def("vdb_build(Tensor dense) -> (Tensor tops, Tensor nodes, Tensor leaves)");
  m.def("vdb_to_dense(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution) -> Tensor");
  m.def(
      "vdb_from_coordinates(Tensor coordinates, int levels, int[] resolution) "
      "-> (Tensor tops, Tensor nodes, Tensor leaves)");
  m.def("vdb_leaf_offsets(Tensor leaves) -> Tensor");
  m.def("vdb_leaf_origins(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution) -> Tensor");
  m.def("vdb_coordinates(Tensor leaves, Tensor leaf_offsets, Tensor leaf_origins) -> Tensor");
  m.def(
      "vdb_value_index(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, "
      "Tensor leaf_offsets, Tensor coordinates) -> Tensor");

  // Rays through grids: walk_ops.py.
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
