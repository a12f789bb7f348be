// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the VDB operators. grid_ops.py, grid_change_ops.py and walk_ops.py document every
// argument; `masks` there are three tensors and a resolution here.
#include "core/registration.h"

// Grids: made, changed and read.
FL_LIBRARY_FRAGMENT(m) {
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
  m.def(
      "vdb_combine(Tensor tops, Tensor nodes, Tensor leaves, Tensor other_tops, "
      "Tensor other_nodes, Tensor other_leaves, int[] resolution, int operation) "
      "-> (Tensor tops, Tensor nodes, Tensor leaves)");
  m.def(
      "vdb_morph(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, int neighbours, "
      "bool erode) -> (Tensor tops, Tensor nodes, Tensor leaves)");
  m.def(
      "vdb_resample(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, int factor, "
      "int kind) -> (Tensor tops, Tensor nodes, Tensor leaves)");
  m.def(
      "vdb_sample(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, Tensor leaf_offsets, "
      "Tensor values, Tensor points, Tensor background, int level) -> Tensor");
  m.def(
      "vdb_sample_backward(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, "
      "Tensor leaf_offsets, Tensor values, Tensor points, Tensor background, int level, "
      "Tensor gradient, bool needs_values, bool needs_points) -> (Tensor values, Tensor points)");
  m.def(
      "vdb_triangle_voxels(Tensor triangles, int[] resolution, int limit) "
      "-> (Tensor coordinates, Tensor total)");

  // Rays through grids.
  m.def(
      "vdb_ray_samples(Tensor tops, Tensor nodes, Tensor leaves, int[] resolution, Tensor aabbs, "
      "Tensor rays_o, Tensor rays_d, Tensor near, Tensor far, float step, float cone_angle, "
      "bool exact, int limit) -> "
      "(Tensor ray_indices, Tensor t_starts, Tensor t_ends, Tensor packed_info)");
  m.def(
      "vdb_ray_samples_dense(Tensor binaries, Tensor aabbs, Tensor rays_o, Tensor rays_d, Tensor "
      "near, "
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
