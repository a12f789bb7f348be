// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the sparse convolution operators. coordinate_ops.py, map_ops.py, conv_ops.py and
// pool_ops.py document every argument.
#include "core/registration.h"

// Coordinates and kernel maps. `taps` are kernel size, stride, dilation and origin, one number an
// axis in each, level after level; an index is `slots`, `order` and `bounds`, of which a backend
// reads its own.
FL_LIBRARY_FRAGMENT(m) {
  m.def("sparse_hash(Tensor coords) -> Tensor");
  m.def(
      "sparse_unique(Tensor coords) "
      "-> (Tensor coords, Tensor inverse, Tensor first, Tensor counts)");
  m.def(
      "sparse_reached(Tensor coords, int[] taps, bool to_fine, int[] low, int[] high) -> "
      "Tensor[]");
  m.def("sparse_index(Tensor coords) -> (Tensor slots, Tensor order, Tensor bounds)");
  m.def("sparse_slots(Tensor coords) -> Tensor");
  m.def("sparse_lookup(Tensor coords, Tensor slots, Tensor queries) -> Tensor");
  m.def(
      "sparse_kernel_table(Tensor coords, Tensor slots, Tensor order, Tensor bounds, "
      "Tensor coarse_coords, int[] taps, bool symmetric) -> Tensor");
  m.def(
      "sparse_kernel_pairs(Tensor coords, Tensor slots, Tensor order, Tensor bounds, "
      "Tensor coarse_coords, int[] taps, bool symmetric) "
      "-> (Tensor fine_rows, Tensor coarse_rows, Tensor starts)");
  m.def(
      "sparse_table_pairs(Tensor table) -> (Tensor fine_rows, Tensor coarse_rows, Tensor starts)");
  m.def(
      "sparse_pairs_table(Tensor fine_rows, Tensor coarse_rows, Tensor starts, int n_coarse) "
      "-> Tensor");
  m.def("sparse_invert_table(Tensor table, int n_fine) -> Tensor");
  m.def(
      "sparse_invert_pairs(Tensor fine_rows, Tensor coarse_rows, Tensor starts, int n_fine) "
      "-> (Tensor fine_rows, Tensor coarse_rows)");
}

// Convolution. Which forms of the map a backend reads, KernelMap knows; the others are empty.
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "sparse_conv(Tensor features, Tensor weight, Tensor? bias, Tensor? residual, "
      "int activation, float slope, int n_out, Tensor in_rows, Tensor out_rows, Tensor starts, "
      "Tensor table, Tensor order, Tensor tile_masks) -> Tensor");
  m.def(
      "sparse_conv_weight_gradient(Tensor features, Tensor gradient, int groups, Tensor in_rows, "
      "Tensor out_rows, Tensor starts, Tensor table) -> Tensor");
}

// Convolution on a GPU: the order that implicit GEMM takes rows in.
// Pooling, segments and interpolation.
