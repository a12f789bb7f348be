// SPDX-License-Identifier: Apache-2.0
//
// Nested masks: a sparse set of voxels as three levels of 64-bit words.
//
//     top   64^3 voxels   mask of its 4x4x4 nodes that hold a voxel     dense table
//     node  16^3          mask of its 4x4x4 leaves that hold a voxel    only where the top says so
//     leaf   4^3          mask of its 4x4x4 voxels                      only where the node says so
//
// The children of a top, or of a node, lie together in bit order from `first`, so a child's index
// is first + popcount(mask below its bit). A bit counts z fastest: 16 x + 4 y + z. A region that is
// empty is one zero bit, as large as 64^3; nothing below it is stored or read.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fl::vdb {

constexpr int kLeafEdge = 4, kNodeEdge = 16, kTopEdge = 64;

// What a row of `tops` and `nodes` holds; 16 bytes, read at once.
struct alignas(16) Node {
  uint64_t mask;
  int64_t first;  // of its children; unspecified where mask is 0
};

// Grids of one shape over the same voxels, a level each. Coordinates below are local: index space
// minus `origin`, from 0 to resolution - 1.
struct Masks {
  const Node* tops;        // [levels, top_count[0], top_count[1], top_count[2]]
  const Node* nodes;       // [n_nodes]
  const uint64_t* leaves;  // [n_leaves]
  int levels;
  int resolution[3];
  int top_count[3];  // ceil(resolution / 64)
};

FL_HD int child_bit(int x, int y, int z) { return ((x & 3) << 4) | ((y & 3) << 2) | (z & 3); }

FL_HD int count_bits(uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

FL_HD bool has_bit(uint64_t mask, int bit) { return (mask >> bit) & 1u; }

// How many set bits lie below `bit`.
FL_HD int rank_below(uint64_t mask, int bit) {
  return count_bits(mask & ((uint64_t{1} << bit) - 1));
}

FL_HD int64_t child_index(const Node& node, int bit) {
  return node.first + rank_below(node.mask, bit);
}

FL_HD int64_t top_index(const Masks& m, int level, int x, int y, int z) {
  return ((static_cast<int64_t>(level) * m.top_count[0] + (x >> 6)) * m.top_count[1] + (y >> 6)) *
             m.top_count[2] +
         (z >> 6);
}

// The index of the leaf around a voxel, or -1 where nothing is stored. The voxel must be inside.
FL_HD int64_t find_leaf(const Masks& m, int level, int x, int y, int z) {
  const Node& top = m.tops[top_index(m, level, x, y, z)];
  const int node_bit = child_bit(x >> 4, y >> 4, z >> 4);
  if (!has_bit(top.mask, node_bit)) return -1;
  const Node& node = m.nodes[child_index(top, node_bit)];
  const int leaf_bit = child_bit(x >> 2, y >> 2, z >> 2);
  return has_bit(node.mask, leaf_bit) ? child_index(node, leaf_bit) : -1;
}

FL_HD bool is_active(const Masks& m, int level, int x, int y, int z) {
  const int64_t leaf = find_leaf(m, level, x, y, z);
  return leaf >= 0 && has_bit(m.leaves[leaf], child_bit(x, y, z));
}

}  // namespace fl::vdb
