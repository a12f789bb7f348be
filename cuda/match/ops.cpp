// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the correspondence operators. ops.py documents every argument.
#include "core/registration.h"

FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "match_plane_sweep(Tensor reference, Tensor[] neighbours, Tensor warps, "
      "Tensor inverse_depths, int best, Tensor? prior, float prior_weight) -> Tensor");
  m.def("match_sgm(Tensor cost, Tensor guide, int p1, int p2, float edge) -> Tensor");
  m.def("match_winner(Tensor total, Tensor cost) -> (Tensor plane, Tensor raw, Tensor margin)");
  m.def(
      "match_consistency(Tensor depth, Tensor neighbour_depth, Tensor there, Tensor back, "
      "float depth_tolerance, float pixel_tolerance) -> Tensor");
}
