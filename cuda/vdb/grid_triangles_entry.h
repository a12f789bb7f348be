// SPDX-License-Identifier: Apache-2.0
//
// Voxels of triangles as torch sees them: checks and outputs, with the work left to a Backend.
#pragma once

#include "vdb/grid_triangles.h"

namespace fl::vdb {

// The voxels of each triangle, one triangle after another, and how many they are; where there are
// more than `limit`, only their number.
template <typename Backend>
std::tuple<Tensor, Tensor> vdb_triangle_voxels(Tensor triangles, Sizes resolution, int64_t limit) {
  const char* op = "vdb_triangle_voxels";
  check_dtype(triangles, ScalarType::Double, op, "triangles");
  check_shape(triangles, {-1, 3, 3}, op, "triangles");
  const GridShape shape = grid_shape(1, resolution, op);
  make_dense(triangles);
  TriangleArgs args{input<double>(triangles), triangles.size(0), {}};
  for (int d = 0; d < 3; ++d) args.resolution[d] = shape.resolution[d];
  return Backend::run(args, limit, triangles);
}

}  // namespace fl::vdb
