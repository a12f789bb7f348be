// SPDX-License-Identifier: Apache-2.0
//
// Between masks and lists: of coordinates, of values. Values lie in storage order: leaf by leaf,
// bit by bit; `leaf_offsets` holds each leaf's first, and at its end how many there are.
#pragma once

#include "vdb/grid_entry.h"

namespace fl::vdb {

FL_HD bool is_inside(const int* resolution, int64_t x, int64_t y, int64_t z) {
  return x >= 0 && y >= 0 && z >= 0 && x < resolution[0] && y < resolution[1] && z < resolution[2];
}

// Where a voxel's value lies, or -1 where it is outside or not active.
FL_HD int64_t value_index(const Masks& m, const int64_t* leaf_offsets, int64_t level, int64_t x,
                          int64_t y, int64_t z) {
  if (level < 0 || level >= m.levels || !is_inside(m.resolution, x, y, z)) return -1;
  const int vx = static_cast<int>(x), vy = static_cast<int>(y), vz = static_cast<int>(z);
  const int64_t leaf = find_leaf(m, static_cast<int>(level), vx, vy, vz);
  if (leaf < 0) return -1;
  const uint64_t word = m.leaves[leaf];
  const int bit = child_bit(vx, vy, vz);
  return has_bit(word, bit) ? leaf_offsets[leaf] + rank_below(word, bit) : -1;
}

// A voxel's place in storage order among all voxels there could be: 6 bits each for the voxel, the
// leaf and the node, then the top.
constexpr int kTopShift = 18, kNodeShift = 12, kLeafShift = 6;
constexpr uint64_t kNoKey = ~uint64_t{0};

FL_HD int top_bits(const GridShape& shape) {
  int bits = 1;
  while ((int64_t{1} << bits) < shape.tops()) ++bits;
  return bits;
}

FL_HD uint64_t voxel_key(const GridShape& s, int64_t level, int64_t x, int64_t y, int64_t z) {
  if (level < 0 || level >= s.levels || !is_inside(s.resolution, x, y, z)) return kNoKey;
  const int vx = static_cast<int>(x), vy = static_cast<int>(y), vz = static_cast<int>(z);
  const int64_t top =
      ((level * s.top_count[0] + (vx >> 6)) * s.top_count[1] + (vy >> 6)) * s.top_count[2] +
      (vz >> 6);
  return static_cast<uint64_t>(top) << kTopShift |
         static_cast<uint64_t>(child_bit(vx >> 4, vy >> 4, vz >> 4)) << kNodeShift |
         static_cast<uint64_t>(child_bit(vx >> 2, vy >> 2, vz >> 2)) << kLeafShift |
         static_cast<uint64_t>(child_bit(vx, vy, vz));
}

// Rows of (x, y, z) or (level, x, y, z).
template <typename I>
struct Coordinates {
  const I* rows;
  int64_t count;
  int columns;

  FL_HD void read(int64_t i, int64_t* level, int64_t* x, int64_t* y, int64_t* z) const {
    const I* row = rows + i * columns;
    *level = columns == 4 ? static_cast<int64_t>(row[0]) : 0;
    *x = row[columns - 3];
    *y = row[columns - 2];
    *z = row[columns - 1];
  }
};

template <typename I>
FL_HD uint64_t key_of(const GridShape& shape, const Coordinates<I>& coordinates, int64_t i) {
  int64_t level, x, y, z;
  coordinates.read(i, &level, &x, &y, &z);
  return voxel_key(shape, level, x, y, z);
}

template <typename I>
FL_HD int64_t index_of(const Masks& m, const int64_t* leaf_offsets,
                       const Coordinates<I>& coordinates, int64_t i) {
  int64_t level, x, y, z;
  coordinates.read(i, &level, &x, &y, &z);
  return value_index(m, leaf_offsets, level, x, y, z);
}

// Writes the rows (level, x, y, z) of a leaf's voxels from its first value on.
FL_HD void write_voxels(uint64_t word, const int32_t* origin, int32_t* rows) {
  for (; word != 0; word &= word - 1, rows += 4) {
    const int bit = lowest_bit(word);
    rows[0] = origin[0];
    rows[1] = origin[1] + bit_x(bit);
    rows[2] = origin[2] + bit_y(bit);
    rows[3] = origin[3] + bit_z(bit);
  }
}

}  // namespace fl::vdb
