// SPDX-License-Identifier: Apache-2.0
//
// Words of nested masks by their place, boxes of bits, and a word shifted against its neighbours:
// what morphology and resampling are made of. A word is 4x4x4 bits at every height of the tree, so
// one function dilates voxels in a leaf, leaves in a node and nodes in a top.
#pragma once

#include "vdb/grid_entry.h"

namespace fl::vdb {

// Height of a word: its bits are voxels, leaves, or nodes.
enum class Height { leaf, node, top };

constexpr int edge_of(Height h) {
  return h == Height::leaf ? kLeafEdge : h == Height::node ? kNodeEdge : kTopEdge;
}

// The word whose first voxel is (x, y, z); 0 where nothing is stored, outside the grid too.
template <Height H>
FL_HD uint64_t word_at(const Masks& m, const Place& p) {
  if (p.x < 0 || p.y < 0 || p.z < 0 || p.x >= m.top_count[0] * int64_t{kTopEdge} ||
      p.y >= m.top_count[1] * int64_t{kTopEdge} || p.z >= m.top_count[2] * int64_t{kTopEdge})
    return 0;
  const Node top = m.tops[top_index(m, p.level, p.x, p.y, p.z)];
  if (H == Height::top) return top.mask;
  const int node_bit = child_bit(p.x >> 4, p.y >> 4, p.z >> 4);
  if (!has_bit(top.mask, node_bit)) return 0;
  const Node node = m.nodes[child_index(top, node_bit)];
  if (H == Height::node) return node.mask;
  const int leaf_bit = child_bit(p.x >> 2, p.y >> 2, p.z >> 2);
  return has_bit(node.mask, leaf_bit) ? m.leaves[child_index(node, leaf_bit)] : 0;
}

// The place of the word that a bit of a word stands for.
template <Height H>
FL_HD Place child_place(const Place& p, int bit) {
  constexpr int edge = edge_of(H) / 4;
  return {p.level, p.x + bit_x(bit) * edge, p.y + bit_y(bit) * edge, p.z + bit_z(bit) * edge};
}

// Bits [begin, end) of 4, clamped.
FL_HD unsigned axis_bits(int64_t begin, int64_t end) {
  const int b = begin < 0 ? 0 : begin > 4 ? 4 : static_cast<int>(begin);
  const int e = end < b ? b : end > 4 ? 4 : static_cast<int>(end);
  return ((1u << e) - 1u) & ~((1u << b) - 1u);
}

// The bits of a word inside [begin, end), in the word's own units.
FL_HD uint64_t box_word(const int64_t begin[3], const int64_t end[3]) {
  const uint64_t z = axis_bits(begin[2], end[2]);
  const unsigned y = axis_bits(begin[1], end[1]), x = axis_bits(begin[0], end[0]);
  uint64_t rows = 0, word = 0;
  for (int i = 0; i < 4; ++i) rows |= (y >> i & 1u) ? z << (4 * i) : 0;
  for (int i = 0; i < 4; ++i) word |= (x >> i & 1u) ? rows << (16 * i) : 0;
  return word;
}

// The bits of the word at `p` that stand for anything inside the grid.
template <Height H>
FL_HD uint64_t inside_word(const int resolution[3], const Place& p) {
  constexpr int edge = edge_of(H) / 4;
  const int64_t begin[3] = {0, 0, 0};
  const int64_t end[3] = {(resolution[0] - p.x + edge - 1) / edge,
                          (resolution[1] - p.y + edge - 1) / edge,
                          (resolution[2] - p.z + edge - 1) / edge};
  return box_word(begin, end);
}

constexpr uint64_t kLastY = 0xf000f000f000f000ull, kFirstY = 0x000f000f000f000full;
constexpr uint64_t kLastZ = 0x8888888888888888ull, kFirstZ = 0x1111111111111111ull;

// A word, with its neighbours before and behind it, and both shifted by one bit into it.
FL_HD uint64_t spread_x(uint64_t before, uint64_t w, uint64_t behind) {
  return w | w << 16 | before >> 48 | w >> 16 | behind << 48;
}
FL_HD uint64_t spread_y(uint64_t before, uint64_t w, uint64_t behind) {
  return w | (w & ~kLastY) << 4 | (before & kLastY) >> 12 | (w & ~kFirstY) >> 4 |
         (behind & kFirstY) << 12;
}
FL_HD uint64_t spread_z(uint64_t before, uint64_t w, uint64_t behind) {
  return w | (w & ~kLastZ) << 1 | (before & kLastZ) >> 3 | (w & ~kFirstZ) >> 1 |
         (behind & kFirstZ) << 3;
}

// A word dilated by its 6, 18 or 26 neighbours; word(dx, dy, dz) gives the words around it.
template <typename Word>
FL_HD uint64_t dilate_word(int neighbours, const Word& word) {
  if (neighbours == 6) {
    const uint64_t w = word(0, 0, 0);
    return spread_x(word(-1, 0, 0), w, word(1, 0, 0)) | spread_y(word(0, -1, 0), w, word(0, 1, 0)) |
           spread_z(word(0, 0, -1), w, word(0, 0, 1));
  }
  // Along z in columns, then along x and y; 18 neighbours are three planes of such.
  const auto column = [&](int dx, int dy) {
    return spread_z(word(dx, dy, -1), word(dx, dy, 0), word(dx, dy, 1));
  };
  if (neighbours == 18) {
    const uint64_t own = column(0, 0);
    const auto plane = [&](int dx) {
      return spread_y(word(dx, -1, 0), word(dx, 0, 0), word(dx, 1, 0));
    };
    return spread_x(column(-1, 0), own, column(1, 0)) | spread_y(column(0, -1), own, column(0, 1)) |
           spread_x(plane(-1), plane(0), plane(1));
  }
  const auto slab = [&](int dx) { return spread_y(column(dx, -1), column(dx, 0), column(dx, 1)); };
  return spread_x(slab(-1), slab(0), slab(1));
}

namespace detail {

template <Height H>
FL_HD bool covers(const Place& p, const int64_t begin[3], const int64_t end[3]) {
  constexpr int edge = edge_of(H);
  return begin[0] <= p.x && begin[1] <= p.y && begin[2] <= p.z && end[0] >= p.x + edge &&
         end[1] >= p.y + edge && end[2] >= p.z + edge;
}

// The bits of the word at `p` whose voxels meet the box.
template <Height H>
FL_HD uint64_t meeting(const Place& p, const int64_t begin[3], const int64_t end[3]) {
  constexpr int edge = edge_of(H) / 4;
  const int64_t at[3] = {p.x, p.y, p.z};
  int64_t b[3], e[3];
  for (int d = 0; d < 3; ++d) {
    b[d] = begin[d] > at[d] ? (begin[d] - at[d]) / edge : 0;
    e[d] = end[d] > at[d] ? (end[d] - at[d] + edge - 1) / edge : 0;
  }
  return box_word(b, e);
}

FL_HD bool any_in_node(const Masks& m, const Place& at, const Node& node, const int64_t begin[3],
                       const int64_t end[3]) {
  for (uint64_t bits = node.mask & meeting<Height::node>(at, begin, end); bits != 0;
       bits &= bits - 1) {
    const int bit = lowest_bit(bits);
    const Place leaf = child_place<Height::node>(at, bit);
    if (covers<Height::leaf>(leaf, begin, end)) return true;
    if ((m.leaves[child_index(node, bit)] & meeting<Height::leaf>(leaf, begin, end)) != 0)
      return true;
  }
  return false;
}

FL_HD bool any_in_top(const Masks& m, const Place& at, const int64_t begin[3],
                      const int64_t end[3]) {
  const Node top = m.tops[top_index(m, at.level, at.x, at.y, at.z)];
  for (uint64_t bits = top.mask & meeting<Height::top>(at, begin, end); bits != 0;
       bits &= bits - 1) {
    const int bit = lowest_bit(bits);
    const Place node = child_place<Height::top>(at, bit);
    if (covers<Height::node>(node, begin, end)) return true;
    if (any_in_node(m, node, m.nodes[child_index(top, bit)], begin, end)) return true;
  }
  return false;
}

}  // namespace detail

// Whether [begin, end) of voxels, begin not below 0, holds an active one. Nothing stored is empty,
// so a child that lies inside answers for all of it.
FL_HD bool any_in_box(const Masks& m, int level, const int64_t begin[3], const int64_t end[3]) {
  int64_t first[3], last[3];
  for (int d = 0; d < 3; ++d) {
    first[d] = begin[d] / kTopEdge;
    last[d] = (end[d] + kTopEdge - 1) / kTopEdge;
    if (last[d] > m.top_count[d]) last[d] = m.top_count[d];
  }
  for (int64_t x = first[0]; x < last[0]; ++x)
    for (int64_t y = first[1]; y < last[1]; ++y)
      for (int64_t z = first[2]; z < last[2]; ++z)
        if (detail::any_in_top(m,
                               {level, static_cast<int>(x) * kTopEdge,
                                static_cast<int>(y) * kTopEdge, static_cast<int>(z) * kTopEdge},
                               begin, end))
          return true;
  return false;
}

// Whether all voxels of [begin, end) are active; the box lies inside the grid.
FL_HD bool all_in_box(const Masks& m, int level, const int64_t begin[3], const int64_t end[3]) {
  for (int64_t x = begin[0] & ~int64_t{3}; x < end[0]; x += kLeafEdge)
    for (int64_t y = begin[1] & ~int64_t{3}; y < end[1]; y += kLeafEdge)
      for (int64_t z = begin[2] & ~int64_t{3}; z < end[2]; z += kLeafEdge) {
        const Place leaf{level, static_cast<int>(x), static_cast<int>(y), static_cast<int>(z)};
        const uint64_t wanted = detail::meeting<Height::leaf>(leaf, begin, end);
        if ((word_at<Height::leaf>(m, leaf) & wanted) != wanted) return false;
      }
  return true;
}

}  // namespace fl::vdb
