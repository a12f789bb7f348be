// SPDX-License-Identifier: Apache-2.0
//
// Lists of voxels and values as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include "vdb/grid_lists.h"

namespace fl::vdb {

inline void check_coordinates(const Tensor& coordinates, const char* op) {
  STD_TORCH_CHECK(
      coordinates.scalar_type() == ScalarType::Int || coordinates.scalar_type() == ScalarType::Long,
      op, ": coordinates: expected int32 or int64, got dtype code ",
      static_cast<int>(coordinates.scalar_type()));
  STD_TORCH_CHECK(coordinates.dim() == 2 && (coordinates.size(1) == 3 || coordinates.size(1) == 4),
                  op, ": coordinates: expected shape [*, 3] or [*, 4], got ",
                  shape_text(coordinates));
}

// Calls f(Coordinates) with the tensor's integer type.
template <typename F>
auto with_coordinates(const Tensor& coordinates, const F& f) {
  const int columns = static_cast<int>(coordinates.size(1));
  if (coordinates.scalar_type() == ScalarType::Int)
    return f(Coordinates<int32_t>{input<int32_t>(coordinates), coordinates.size(0), columns});
  return f(Coordinates<int64_t>{input<int64_t>(coordinates), coordinates.size(0), columns});
}

template <typename Backend>
MaskTensors vdb_from_coordinates(Tensor coordinates, int64_t levels, Sizes resolution) {
  const char* op = "vdb_from_coordinates";
  check_coordinates(coordinates, op);
  const GridShape shape = grid_shape(levels, resolution, op);
  make_dense(coordinates);
  return with_coordinates(
      coordinates, [&](const auto& rows) { return Backend::build(shape, rows, coordinates); });
}

template <typename Backend>
Tensor vdb_leaf_offsets(Tensor leaves) {
  check_dtype(leaves, ScalarType::Long, "vdb_leaf_offsets", "leaves");
  check_shape(leaves, {-1}, "vdb_leaf_offsets", "leaves");
  make_dense(leaves);
  Tensor offsets = new_empty(leaves, {leaves.size(0) + 1}, ScalarType::Long);
  Backend::offsets(input<uint64_t>(leaves), leaves.size(0), output<int64_t>(offsets), leaves);
  return offsets;
}

template <typename Backend>
Tensor vdb_leaf_origins(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution) {
  const MaskInput in(tops, nodes, leaves, resolution, "vdb_leaf_origins");
  Tensor origins = new_empty(in.tops, {in.n_leaves, 4}, ScalarType::Int);
  Backend::origins(in.masks, output<int32_t>(origins), in.tops);
  return origins;
}

template <typename Backend>
Tensor vdb_coordinates(Tensor leaves, Tensor leaf_offsets, Tensor leaf_origins) {
  const char* op = "vdb_coordinates";
  check_dtype(leaves, ScalarType::Long, op, "leaves");
  check_shape(leaves, {-1}, op, "leaves");
  const int64_t n = leaves.size(0);
  check_dtype(leaf_offsets, ScalarType::Long, op, "leaf_offsets");
  check_shape(leaf_offsets, {n + 1}, op, "leaf_offsets");
  check_same_device(leaf_offsets, leaves, op, "leaf_offsets");
  check_dtype(leaf_origins, ScalarType::Int, op, "leaf_origins");
  check_shape(leaf_origins, {n, 4}, op, "leaf_origins");
  check_same_device(leaf_origins, leaves, op, "leaf_origins");
  dense_all(leaves, leaf_offsets, leaf_origins);
  return Backend::coordinates(input<uint64_t>(leaves), n, input<int64_t>(leaf_offsets),
                              input<int32_t>(leaf_origins), leaves);
}

template <typename Backend>
Tensor vdb_value_index(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution,
                       Tensor leaf_offsets, Tensor coordinates) {
  const char* op = "vdb_value_index";
  const MaskInput in(tops, nodes, leaves, resolution, op);
  check_dtype(leaf_offsets, ScalarType::Long, op, "leaf_offsets");
  check_shape(leaf_offsets, {in.n_leaves + 1}, op, "leaf_offsets");
  check_same_device(leaf_offsets, in.tops, op, "leaf_offsets");
  check_coordinates(coordinates, op);
  check_same_device(coordinates, in.tops, op, "coordinates");
  dense_all(leaf_offsets, coordinates);
  Tensor found = new_empty(coordinates, {coordinates.size(0)}, ScalarType::Long);
  with_coordinates(coordinates, [&](const auto& rows) {
    Backend::index(in.masks, input<int64_t>(leaf_offsets), rows, output<int64_t>(found), in.tops);
  });
  return found;
}

}  // namespace fl::vdb
