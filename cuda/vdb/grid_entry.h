// SPDX-License-Identifier: Apache-2.0
//
// Nested masks as torch sees them: three tensors and a resolution in, the same out.
#pragma once

#include <array>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "vdb/masks.h"

namespace fl::vdb {

using Sizes = std::vector<int64_t>;
using MaskTensors = std::tuple<Tensor, Tensor, Tensor>;  // tops, nodes, leaves

constexpr int64_t kMostTops = int64_t{1} << 24;

// Levels and voxels per axis of grids that lie over one another.
struct GridShape {
  int levels;
  int resolution[3];
  int top_count[3];

  FL_HD int64_t tops_per_level() const {
    return static_cast<int64_t>(top_count[0]) * top_count[1] * top_count[2];
  }
  FL_HD int64_t tops() const { return levels * tops_per_level(); }
};

inline GridShape grid_shape(int64_t levels, const int64_t* resolution, const char* op) {
  STD_TORCH_CHECK(levels >= 1 && levels <= kMostTops, op, ": expected 1 to 2^24 levels, got ",
                  levels);
  GridShape shape{static_cast<int>(levels), {}, {}};
  int64_t tops = levels;
  for (int d = 0; d < 3; ++d) {
    STD_TORCH_CHECK(resolution[d] >= 1 && resolution[d] <= kMostTops * kTopEdge, op,
                    ": resolution: expected 1 to 2^30 voxels per axis, got [", resolution[0], ", ",
                    resolution[1], ", ", resolution[2], "]");
    shape.resolution[d] = static_cast<int>(resolution[d]);
    shape.top_count[d] = static_cast<int>((resolution[d] + kTopEdge - 1) / kTopEdge);
    tops *= shape.top_count[d];
    STD_TORCH_CHECK(tops <= kMostTops, op,
                    ": resolution: expected at most 2^24 blocks of 64^3 voxels in all levels, got ",
                    levels, " levels of [", resolution[0], ", ", resolution[1], ", ", resolution[2],
                    "] voxels");
  }
  return shape;
}

inline GridShape grid_shape(int64_t levels, const Sizes& resolution, const char* op) {
  STD_TORCH_CHECK(resolution.size() == 3, op, ": resolution: expected 3 numbers, got ",
                  resolution.size());
  return grid_shape(levels, resolution.data(), op);
}

inline GridShape shape_of(const Masks& m) {
  GridShape shape{m.levels, {}, {}};
  for (int d = 0; d < 3; ++d) {
    shape.resolution[d] = m.resolution[d];
    shape.top_count[d] = m.top_count[d];
  }
  return shape;
}

// Makes the tensors contiguous, and aligned so that a Node is read at once.
inline void make_aligned(Tensor& tensor) {
  make_dense(tensor);
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % alignof(Node) != 0)
    tensor = torch::stable::clone(tensor);
}

// The tensors of a grid, checked and held for as long as the pointers of `masks` are used. What
// the words say of their children is trusted: `check_masks` in Python is for grids of strangers.
struct MaskInput {
  Tensor tops, nodes, leaves;
  Masks masks;
  int64_t n_nodes, n_leaves;

  MaskInput(Tensor tops_in, Tensor nodes_in, Tensor leaves_in, const Sizes& resolution,
            const char* op)
      : tops(tops_in), nodes(nodes_in), leaves(leaves_in) {
    check_dtype(tops, ScalarType::Long, op, "tops");
    STD_TORCH_CHECK(tops.dim() == 5, op, ": tops: expected shape [levels, *, *, *, 2], got ",
                    shape_text(tops));
    const GridShape shape = grid_shape(tops.size(0), resolution, op);
    check_shape(tops, {shape.levels, shape.top_count[0], shape.top_count[1], shape.top_count[2], 2},
                op, "tops");
    check_dtype(nodes, ScalarType::Long, op, "nodes");
    check_shape(nodes, {-1, 2}, op, "nodes");
    check_same_device(nodes, tops, op, "nodes");
    check_dtype(leaves, ScalarType::Long, op, "leaves");
    check_shape(leaves, {-1}, op, "leaves");
    check_same_device(leaves, tops, op, "leaves");
    make_aligned(tops);
    make_aligned(nodes);
    make_dense(leaves);
    n_nodes = nodes.size(0);
    n_leaves = leaves.size(0);
    masks.tops = input<Node>(tops);
    masks.nodes = input<Node>(nodes);
    masks.leaves = input<uint64_t>(leaves);
    masks.levels = shape.levels;
    for (int d = 0; d < 3; ++d) {
      masks.resolution[d] = shape.resolution[d];
      masks.top_count[d] = shape.top_count[d];
    }
  }
};

inline Tensor new_tops(const Tensor& like, const GridShape& shape) {
  return new_empty(like,
                   {shape.levels, shape.top_count[0], shape.top_count[1], shape.top_count[2], 2},
                   ScalarType::Long);
}

inline MaskTensors empty_children(const Tensor& like, const Tensor& tops, int64_t n_nodes,
                                  int64_t n_leaves) {
  return {tops, new_empty(like, {n_nodes, 2}, ScalarType::Long),
          new_empty(like, {n_leaves}, ScalarType::Long)};
}

// Where a top, node or leaf lies: its level and its first voxel.
struct Place {
  int level, x, y, z;
};

FL_HD Place top_place(const GridShape& shape, int64_t top) {
  const int64_t z = top % shape.top_count[2];
  const int64_t rest = top / shape.top_count[2];
  const int64_t y = rest % shape.top_count[1];
  const int64_t above = rest / shape.top_count[1];
  return {static_cast<int>(above / shape.top_count[0]),
          static_cast<int>(above % shape.top_count[0]) * kTopEdge, static_cast<int>(y) * kTopEdge,
          static_cast<int>(z) * kTopEdge};
}

// The place of a child in its parent, in children.
FL_HD int bit_x(int bit) { return bit >> 4; }
FL_HD int bit_y(int bit) { return (bit >> 2) & 3; }
FL_HD int bit_z(int bit) { return bit & 3; }

FL_HD int lowest_bit(uint64_t mask) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(mask)) - 1;
#else
  return __builtin_ctzll(mask);
#endif
}

// visit(place, index) for the leaves of a top, in storage order; a leaf's place is its first voxel.
template <typename Visit>
FL_HD void for_leaves(const Masks& m, int64_t top, const Place& place, const Visit& visit) {
  int64_t node_index = m.tops[top].first;
  for (uint64_t nodes = m.tops[top].mask; nodes != 0; nodes &= nodes - 1, ++node_index) {
    const int n = lowest_bit(nodes);
    const Node node = m.nodes[node_index];
    int64_t leaf_index = node.first;
    for (uint64_t leaves = node.mask; leaves != 0; leaves &= leaves - 1, ++leaf_index) {
      const int l = lowest_bit(leaves);
      visit(Place{place.level, place.x + bit_x(n) * kNodeEdge + bit_x(l) * kLeafEdge,
                  place.y + bit_y(n) * kNodeEdge + bit_y(l) * kLeafEdge,
                  place.z + bit_z(n) * kNodeEdge + bit_z(l) * kLeafEdge},
            leaf_index);
    }
  }
}

}  // namespace fl::vdb
