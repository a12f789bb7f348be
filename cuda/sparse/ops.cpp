// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the sparse convolution operators. map_ops.py, conv_ops.py and pool_ops.py document
// every argument.
#include "core/registration.h"

// Coordinates and kernel maps.
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
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "sparse_pool(Tensor features, int n_out, int mode, Tensor in_rows, Tensor out_rows, "
      "Tensor starts, Tensor table, Tensor reverse_in_rows, Tensor reverse_out_rows, "
      "Tensor reverse_table) -> (Tensor out, Tensor kept)");
  m.def(
      "sparse_pool_backward(Tensor gradient, Tensor? kept, int n_in, Tensor in_rows, "
      "Tensor out_rows, Tensor starts, Tensor table) -> Tensor");
  m.def(
      "sparse_segment_sort(Tensor segments, int n_segments, bool is_sorted) -> "
      "(Tensor order, Tensor starts)");
  m.def(
      "sparse_segment_reduce(Tensor features, Tensor segments, Tensor order, Tensor starts, "
      "int mode) -> (Tensor out, Tensor picked)");
  m.def("sparse_segment_picked_backward(Tensor gradient, Tensor picked, int n_rows) -> Tensor");
  m.def("sparse_interpolate(Tensor features, Tensor rows, Tensor? weights) -> Tensor");
  m.def(
      "sparse_interpolate_weights_backward(Tensor gradient, Tensor features, Tensor rows) -> "
      "Tensor");
  m.def(
      "sparse_interpolate_features_backward(Tensor gradient, Tensor? weights, Tensor order, "
      "Tensor starts, int taps) -> Tensor");
}
