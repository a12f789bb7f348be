// SPDX-License-Identifier: Apache-2.0
//
// Dense tensors to nested masks and back, as torch sees them; the work is left to a Backend.
#pragma once

#include "vdb/grid_build.h"
#include "vdb/grid_entry.h"

namespace fl::vdb {

struct DenseVoxels {
  const uint8_t* voxels;  // [levels, X, Y, Z], z fastest; anything but 0 is active
  GridShape shape;

  FL_HD int64_t row(int level, int x, int y) const {
    return ((static_cast<int64_t>(level) * shape.resolution[0] + x) * shape.resolution[1] + y) *
           shape.resolution[2];
  }
};

template <typename Backend>
MaskTensors vdb_build(Tensor dense) {
  const char* op = "vdb_build";
  STD_TORCH_CHECK(
      dense.scalar_type() == ScalarType::Bool || dense.scalar_type() == ScalarType::Byte, op,
      ": dense: expected bool or uint8, got dtype code ", static_cast<int>(dense.scalar_type()));
  check_shape(dense, {-1, -1, -1, -1}, op, "dense");
  const int64_t resolution[3] = {dense.size(1), dense.size(2), dense.size(3)};
  const GridShape shape = grid_shape(dense.size(0), resolution, op);
  make_dense(dense);
  return Backend::build(DenseVoxels{input<uint8_t>(dense), shape}, dense);
}

template <typename Backend>
Tensor vdb_to_dense(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution) {
  const MaskInput in(tops, nodes, leaves, resolution, "vdb_to_dense");
  const Masks& m = in.masks;
  Tensor dense = new_empty(in.tops, {m.levels, m.resolution[0], m.resolution[1], m.resolution[2]},
                           ScalarType::Bool);
  Backend::to_dense(m, output<uint8_t>(dense), in.tops);
  return dense;
}

}  // namespace fl::vdb
