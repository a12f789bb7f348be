// SPDX-License-Identifier: Apache-2.0
//
// Values between voxels. A voxel's value stands at its centre, (i + 1/2, j + 1/2, k + 1/2), and a
// point's is the trilinear mean of the eight around it; a voxel that is not active counts with the
// background.
#pragma once

#include <cmath>

#include "vdb/grid_lists.h"

namespace fl::vdb {

constexpr int kChannelsAtOnce = 4;

// The eight voxels around a point: where their values lie (-1: background), how they weigh.
template <typename T>
struct Cell {
  int64_t index[8];  // bit 2 is x, bit 1 y, bit 0 z
  T fraction[3];
  bool any;  // of them active

  FL_HD T axis_weight(int corner, int axis) const {
    const bool upper = (corner >> (2 - axis)) & 1;
    return upper ? fraction[axis] : T(1) - fraction[axis];
  }
  FL_HD T weight(int corner) const {
    return axis_weight(corner, 0) * axis_weight(corner, 1) * axis_weight(corner, 2);
  }
  // How the weight changes as the point moves along an axis.
  FL_HD T slope(int corner, int axis) const {
    const T sign = (corner >> (2 - axis)) & 1 ? T(1) : T(-1);
    const int one = axis == 0 ? 1 : 0, two = axis == 2 ? 1 : 2;
    return sign * axis_weight(corner, one) * axis_weight(corner, two);
  }
};

template <typename T>
FL_HD Cell<T> find_cell(const Masks& m, const int64_t* leaf_offsets, int level, const T* point) {
  Cell<T> cell;
  cell.any = false;
  int base[3];
  bool near = true;
  for (int d = 0; d < 3; ++d) {
    // A comparison that is false for what is not a number; beyond, nothing is active.
    const T x = point[d] - T(0.5);
    near = near && x >= T(-1) && x < static_cast<T>(m.resolution[d]);
    const T floor = near ? std::floor(x) : T(0);
    base[d] = static_cast<int>(floor);
    cell.fraction[d] = near ? x - floor : T(0);
  }
  if (!near) {
    for (int c = 0; c < 8; ++c) cell.index[c] = -1;
    return cell;
  }
  // A leaf is looked up once for all corners in it: two along an axis if the cell crosses its end.
  const int crossing = ((base[0] & 3) == 3) << 2 | ((base[1] & 3) == 3) << 1 | ((base[2] & 3) == 3);
  uint64_t words[8];
  int64_t offsets[8];
  for (int c = 0; c < 8; ++c) {
    const int x = base[0] + (c >> 2), y = base[1] + (c >> 1 & 1), z = base[2] + (c & 1);
    const int first = c & crossing;  // of the corners in this one's leaf
    if (first == c) {
      const int64_t leaf = is_inside(m.resolution, x, y, z) ? find_leaf(m, level, x, y, z) : -1;
      words[c] = leaf < 0 ? 0 : m.leaves[leaf];
      offsets[c] = leaf < 0 ? 0 : leaf_offsets[leaf];
    }
    const int bit = child_bit(x, y, z);
    const bool active = has_bit(words[first], bit);
    cell.index[c] = active ? offsets[first] + rank_below(words[first], bit) : -1;
    cell.any = cell.any || active;
  }
  return cell;
}

template <typename T>
struct SampleArgs {
  Masks m;
  const int64_t* leaf_offsets;
  const T* values;      // [n_values, channels]
  const T* points;      // [n, 3]
  const T* background;  // [channels]
  int64_t n, n_values, channels;
  int level;

  FL_HD const T* row(int64_t index) const {
    return index >= 0 && index < n_values ? values + index * channels : background;
  }
};

template <typename T>
FL_HD void sample_point(const SampleArgs<T>& a, int64_t i, T* out) {
  const Cell<T> cell = find_cell(a.m, a.leaf_offsets, a.level, a.points + 3 * i);
  T* sample = out + i * a.channels;
  if (!cell.any) {
    for (int64_t c = 0; c < a.channels; ++c) sample[c] = a.background[c];
    return;
  }
  T weights[8];
  const T* rows[8];
  for (int corner = 0; corner < 8; ++corner) {
    weights[corner] = cell.weight(corner);
    rows[corner] = a.row(cell.index[corner]);
  }
  // Some channels at a time, in registers: neighbours in memory, added in the order of corners.
  int64_t c = 0;
  for (; c + kChannelsAtOnce <= a.channels; c += kChannelsAtOnce) {
    T sums[kChannelsAtOnce] = {};
    for (int corner = 0; corner < 8; ++corner)
      for (int k = 0; k < kChannelsAtOnce; ++k) sums[k] += weights[corner] * rows[corner][c + k];
    for (int k = 0; k < kChannelsAtOnce; ++k) sample[c + k] = sums[k];
  }
  for (; c < a.channels; ++c) {
    T sum = 0;
    for (int corner = 0; corner < 8; ++corner) sum += weights[corner] * rows[corner][c];
    sample[c] = sum;
  }
}

// d loss / d point, given d loss / d sample.
template <typename T>
FL_HD void sample_point_vjp(const SampleArgs<T>& a, const T* gradient, int64_t i, T* g_point) {
  const Cell<T> cell = find_cell(a.m, a.leaf_offsets, a.level, a.points + 3 * i);
  T g[3] = {0, 0, 0};
  if (cell.any)
    for (int corner = 0; corner < 8; ++corner) {
      T sum = 0;
      for (int64_t c = 0; c < a.channels; ++c)
        sum += gradient[i * a.channels + c] * a.row(cell.index[corner])[c];
      for (int d = 0; d < 3; ++d) g[d] += cell.slope(corner, d) * sum;
    }
  for (int d = 0; d < 3; ++d) g_point[3 * i + d] = g[d];
}

}  // namespace fl::vdb
