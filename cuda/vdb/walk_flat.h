// SPDX-License-Identifier: Apache-2.0
//
// The walk of walk.h as one loop, for warps: each turn looks up how large the region around the
// ray's cell is, and crosses it, whatever the level. Nested loops would keep the lanes of a warp
// waiting for the one that is deepest. Regions, times and order are those of walk_masks.
#pragma once

#include "vdb/walk.h"

namespace fl::vdb {

struct Region {
  int edge;  // 1, 4, 16 or 64
  bool occupied;
};

template <bool kFullLeaves>
FL_HD Region region_at(const Masks& m, int level, const Voxel& v) {
  const Node top = m.tops[top_index(m, level, v.x, v.y, v.z)];
  if (top.mask == 0) return {kTopEdge, false};
  const int node_bit = child_bit(v.x >> 4, v.y >> 4, v.z >> 4);
  if (!has_bit(top.mask, node_bit)) return {kNodeEdge, false};
  const Node node = m.nodes[child_index(top, node_bit)];
  const int leaf_bit = child_bit(v.x >> 2, v.y >> 2, v.z >> 2);
  if (!has_bit(node.mask, leaf_bit)) return {kLeafEdge, false};
  const uint64_t leaf = m.leaves[child_index(node, leaf_bit)];
  if (kFullLeaves && leaf == ~uint64_t{0}) return {kLeafEdge, true};
  return {1, has_bit(leaf, child_bit(v.x, v.y, v.z))};
}

// The last cell of the ray's region along an axis, or the last whose time is known.
template <typename Axis>
FL_HD int region_end(const Axis& axis, int below) {
  return lesser(axis.cell | below, axis.valid);
}

// Along axis A, where the ray has crossed out of its region by `w.crossed`. In a wide region the
// other axes have moved too.
template <int A, typename Axis>
FL_HD void follow(Walk<Axis>& w, int end, bool wide) {
  if (w.crossed == A) {
    w.axis[A].cell = end + 1;
    w.axis[A].renew();
  } else if (wide) {
    w.template refine<A>(end);
  }
}

template <typename Axis, typename Visitor>
FL_HD void walk_masks_flat(const Masks& m, int level, Walk<Axis>& w, Visitor& visitor) {
  for (;;) {
    const Region region = region_at<Visitor::kFullLeaves>(m, level, voxel_of(w));
    const int below = Visitor::kEveryCell && !region.occupied ? 0 : region.edge - 1;
    const int ends[3] = {region_end(w.axis[0], below), region_end(w.axis[1], below),
                         region_end(w.axis[2], below)};
    const float times[3] = {w.axis[0].at(ends[0]), w.axis[1].at(ends[1]), w.axis[2].at(ends[2])};
    const float exit = lesser(lesser(times[0], lesser(times[1], times[2])), w.end);
    if (!(region.occupied ? visitor.occupied(exit) : visitor.empty(exit))) return;
    const int axis = first_axis(times[0], times[1], times[2]);
    const float time = axis == 0 ? times[0] : axis == 1 ? times[1] : times[2];
    const bool last = axis == 0   ? ends[0] == w.axis[0].last
                      : axis == 1 ? ends[1] == w.axis[1].last
                                  : ends[2] == w.axis[2].last;
    if (last || time >= w.end) return;
    w.time = time;
    w.crossed = axis;
    follow<0>(w, ends[0], below > 0);
    follow<1>(w, ends[1], below > 0);
    follow<2>(w, ends[2], below > 0);
  }
}

}  // namespace fl::vdb
