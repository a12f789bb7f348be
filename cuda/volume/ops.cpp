// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the volume rendering operators. Samples are packed, [n_samples] with packed_info int64
// [n_rays, 2], or batched, [n_rays, n_samples] without. ops.py documents every argument.
#include "core/registration.h"

FL_LIBRARY_FRAGMENT(m) {
  m.def("volume_pack_info(Tensor ray_indices, int n_rays) -> Tensor");
  m.def(
      "volume_scan(Tensor inputs, Tensor? packed_info, bool product, bool exclusive, "
      "bool reverse) -> Tensor");
  m.def(
      "volume_product_backward(Tensor inputs, Tensor? packed_info, bool exclusive, "
      "Tensor g_outputs) -> Tensor");
  m.def(
      "volume_composite(Tensor? t_starts, Tensor? t_ends, Tensor values, Tensor? packed_info) -> "
      "(Tensor weights, Tensor trans, Tensor alphas)");
  m.def(
      "volume_composite_backward(Tensor? t_starts, Tensor? t_ends, Tensor values, "
      "Tensor? packed_info, Tensor trans, Tensor? g_weights, Tensor? g_trans, Tensor? g_alphas) -> "
      "(Tensor g_starts, Tensor g_ends, Tensor g_values)");
  m.def(
      "volume_visibility(Tensor? t_starts, Tensor? t_ends, Tensor values, Tensor? packed_info, "
      "Tensor? prefix_trans, float early_stop_eps, float alpha_thre) -> Tensor");
  m.def("volume_accumulate(Tensor weights, Tensor? values, Tensor? packed_info) -> Tensor");
  m.def(
      "volume_accumulate_backward(Tensor weights, Tensor? values, Tensor? packed_info, "
      "Tensor g_outputs, bool needs_weights, bool needs_values) -> "
      "(Tensor g_weights, Tensor g_values)");
  m.def(
      "volume_resample(Tensor edges, Tensor cdfs, Tensor? packed_info, Tensor? samples_info, "
      "Tensor? intervals_info, int n_samples, int n_edges, Tensor? bias) -> "
      "(Tensor samples, Tensor intervals)");
  m.def(
      "volume_searchsorted(Tensor sorted, Tensor? sorted_info, Tensor values, "
      "Tensor? values_info) -> (Tensor left, Tensor right)");
  m.def(
      "volume_distortion(Tensor weights, Tensor t_starts, Tensor t_ends, Tensor? packed_info) -> "
      "Tensor");
  m.def(
      "volume_distortion_backward(Tensor weights, Tensor t_starts, Tensor t_ends, "
      "Tensor? packed_info, Tensor g_losses) -> (Tensor g_weights, Tensor g_starts, "
      "Tensor g_ends)");
}
