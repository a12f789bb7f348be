// SPDX-License-Identifier: Apache-2.0
//
// Set algebra, morphology and resampling as torch sees them: checks and rules, the work left to a
// Backend.
#pragma once

#include "vdb/grid_rules.h"

namespace fl::vdb {

template <typename Backend>
MaskTensors vdb_combine(Tensor tops, Tensor nodes, Tensor leaves, Tensor other_tops,
                        Tensor other_nodes, Tensor other_leaves, Sizes resolution,
                        int64_t operation) {
  const char* op = "vdb_combine";
  const MaskInput a(tops, nodes, leaves, resolution, op);
  const MaskInput b(other_tops, other_nodes, other_leaves, resolution, op);
  check_same_device(b.tops, a.tops, op, "other_tops");
  STD_TORCH_CHECK(a.masks.levels == b.masks.levels, op, ": other_tops: expected ", a.masks.levels,
                  " levels, got ", b.masks.levels);
  STD_TORCH_CHECK(operation >= 0 && operation <= 2, op,
                  ": operation: expected 0 (union), 1 (intersection) or 2 (difference), got ",
                  operation);
  return Backend::run(
      Combine{shape_of(a.masks), a.masks, b.masks, static_cast<SetOperation>(operation)}, a.tops);
}

template <typename Backend>
MaskTensors vdb_morph(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution,
                      int64_t neighbours, bool erode) {
  const char* op = "vdb_morph";
  const MaskInput in(tops, nodes, leaves, resolution, op);
  STD_TORCH_CHECK(neighbours == 6 || neighbours == 18 || neighbours == 26, op,
                  ": neighbours: expected 6, 18 or 26, got ", neighbours);
  return Backend::run(Morph{shape_of(in.masks), in.masks, static_cast<int>(neighbours), erode},
                      in.tops);
}

template <typename Backend>
MaskTensors vdb_resample(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution, int64_t factor,
                         int64_t kind) {
  const char* op = "vdb_resample";
  const MaskInput in(tops, nodes, leaves, resolution, op);
  STD_TORCH_CHECK(factor >= 1 && factor <= (1 << 20), op, ": factor: expected 1 to 2^20, got ",
                  factor);
  STD_TORCH_CHECK(kind >= 0 && kind <= 2, op,
                  ": kind: expected 0 (coarsen, any), 1 (coarsen, all) ", "or 2 (refine), got ",
                  kind);
  const Resampling how = static_cast<Resampling>(kind);
  Sizes size(3);
  for (int d = 0; d < 3; ++d)
    size[d] =
        how == Resampling::refine ? resolution[d] * factor : (resolution[d] + factor - 1) / factor;
  return Backend::run(
      Resample{grid_shape(in.masks.levels, size, op), in.masks, static_cast<int>(factor), how},
      in.tops);
}

}  // namespace fl::vdb
