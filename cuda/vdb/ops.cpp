// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the grid operators. grid_ops.py documents every argument; `masks` there are three
// tensors and a resolution here.
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
}
