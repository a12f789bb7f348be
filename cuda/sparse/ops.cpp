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
