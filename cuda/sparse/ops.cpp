// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the sparse convolution operators. coordinate_ops.py, map_ops.py, conv_ops.py,
// pool_ops.py and norm_ops.py document every argument.
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
      "sparse_reached(Tensor coords, int[] taps, int[] sources, bool to_fine, int[] low, "
      "int[] high, int[] bounds) -> Tensor[]");
  m.def("sparse_index(Tensor coords) -> (Tensor slots, Tensor order, Tensor bounds)");
  m.def("sparse_slots(Tensor coords) -> Tensor");
  m.def("sparse_survey(Tensor coords, Tensor slots) -> Tensor");
  m.def("sparse_lookup(Tensor coords, Tensor slots, Tensor queries) -> Tensor");
  m.def(
      "sparse_kernel_table(Tensor coords, Tensor slots, Tensor order, Tensor bounds, "
      "Tensor coarse_coords, int[] taps, bool symmetric) -> Tensor");
  m.def(
      "sparse_kernel_pairs(Tensor coords, Tensor slots, Tensor order, Tensor bounds, "
      "Tensor coarse_coords, int[] taps, bool symmetric) "
      "-> (Tensor fine_rows, Tensor coarse_rows, Tensor starts)");
  m.def(
      "sparse_network_maps(Tensor[] sets, int[] maps, int[] schedules, int[] pairs) -> "
      "(Tensor slots, Tensor tables, Tensor orders, Tensor pair_rows, Tensor pair_starts, "
      "Tensor pair_counts)");
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

// Convolution. Which forms of the map a backend reads, KernelMap knows; the others are empty. The
// reverse map is there for the gradient of the features.
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "sparse_conv(Tensor features, Tensor weight, Tensor? bias, Tensor? residual, "
      "int activation, float slope, bool allow_tf32, int n_out, Tensor in_rows, Tensor out_rows, "
      "Tensor starts, Tensor table, Tensor order, Tensor tile_masks, Tensor? reverse_in_rows, "
      "Tensor? reverse_out_rows, Tensor? reverse_starts, Tensor? reverse_table, "
      "Tensor? reverse_order, Tensor? reverse_tile_masks, bool symmetric) -> Tensor");
  m.def(
      "sparse_conv_backward(Tensor gradient, Tensor? features, Tensor? weight, int n_in, "
      "int groups, bool wide_weight, bool allow_tf32, Tensor in_rows, Tensor out_rows, "
      "Tensor starts, Tensor table, Tensor order, Tensor tile_masks, Tensor? reverse_in_rows, "
      "Tensor? reverse_out_rows, Tensor? reverse_starts, Tensor? reverse_table, "
      "Tensor? reverse_order, Tensor? reverse_tile_masks, bool symmetric) -> "
      "(Tensor features, Tensor weight)");
}

// Convolution on a GPU: the order that implicit GEMM takes rows in.
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "sparse_conv_plan(Tensor table, int splits, int tile_rows) -> (Tensor order, "
      "Tensor tile_masks, Tensor permuted_table)");
}

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
  m.def("sparse_corners(Tensor points, Tensor batch, float value_at) -> Tensor");
  m.def(
      "sparse_corner_weights(Tensor points, Tensor rows, float value_at, bool renormalise) -> "
      "(Tensor weights, Tensor found)");
  m.def(
      "sparse_corner_weights_backward(Tensor points, Tensor rows, float value_at, "
      "bool renormalise, Tensor gradient) -> Tensor");
}

// Batch normalisation. Statistics belong to the features: their gradient is part of the norm's. A
// training step is both in one call.
FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "sparse_batch_statistics(Tensor features, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
      "Tensor(c!)? tracked, float? momentum) -> (Tensor mean, Tensor variance)");
  m.def(
      "sparse_batch_norm(Tensor features, Tensor mean, Tensor variance, Tensor? weight, "
      "Tensor? bias, Tensor? residual, bool of_batch, float eps, int activation, float slope) -> "
      "Tensor");
  m.def(
      "sparse_batch_norm_training(Tensor features, Tensor(a!)? running_mean, "
      "Tensor(b!)? running_var, Tensor(c!)? tracked, Tensor? weight, Tensor? bias, "
      "Tensor? residual, float? momentum, float eps, int activation, float slope) -> "
      "(Tensor out, Tensor mean, Tensor variance)");
  m.def(
      "sparse_batch_norm_backward(Tensor gradient, Tensor features, Tensor mean, Tensor variance, "
      "Tensor? weight, Tensor? bias, Tensor? residual, Tensor? out, bool of_batch, float eps, "
      "int activation, float slope, bool wants_residual) -> "
      "(Tensor g_features, Tensor g_weight, Tensor g_bias, Tensor g_residual)");
}
