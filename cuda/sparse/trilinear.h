// SPDX-License-Identifier: Apache-2.0
//
// The 2^D voxels around a point, and how much each counts: the product over axes of how near it
// is. Corner c takes the upper neighbour along each axis whose bit of c is set; the last axis has
// the lowest bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace fl::sparse {

constexpr int kMostAxes = 4;

template <typename T, int kAxes>
struct TrilinearArgs {
  using Scalar = T;
  static constexpr int kCorners = 1 << kAxes;

  const T* points;       // [n, kAxes], in voxels
  const int32_t* batch;  // [n]
  int64_t n;
  T value_at;  // where in a voxel its value stands, along each axis
  bool renormalise;
};

template <typename T, int kAxes>
struct PointCell {
  int64_t low[kAxes];
  T fraction[kAxes];
  bool near;  // false: too far for int32, or not a number

  FL_HD PointCell(const TrilinearArgs<T, kAxes>& a, int64_t point) : near(true) {
    for (int d = 0; d < kAxes; ++d) {
      const T place = a.points[point * kAxes + d] - a.value_at;
      const T floor = std::floor(place);
      const bool here = floor >= T(-2147483649.0) && floor < T(2147483648.0);
      near = near && here;
      low[d] = here ? static_cast<int64_t>(floor) : 0;
      fraction[d] = place - floor;
    }
  }

  FL_HD bool upper(int corner, int axis) const { return (corner >> (kAxes - 1 - axis)) & 1; }
  FL_HD int64_t coordinate(int corner, int axis) const { return low[axis] + upper(corner, axis); }
  FL_HD bool exists(int corner) const {
    bool inside = near;
    for (int d = 0; d < kAxes; ++d) {
      const int64_t c = coordinate(corner, d);
      inside = inside && c >= -2147483648LL && c <= 2147483647LL;
    }
    return inside;
  }
  FL_HD T along(int corner, int axis) const {
    return upper(corner, axis) ? fraction[axis] : T(1) - fraction[axis];
  }
  FL_HD T share(int corner) const {
    T product = 1;
    for (int d = 0; d < kAxes; ++d) product *= along(corner, d);
    return product;
  }
  // How the share changes as the point moves along an axis.
  FL_HD T slope(int corner, int axis) const {
    T product = upper(corner, axis) ? T(1) : T(-1);
    for (int d = 0; d < kAxes; ++d)
      if (d != axis) product *= along(corner, d);
    return product;
  }
};

// Coordinates to look up: those of corners that do not exist are zeros.
template <typename T, int kAxes>
FL_HD void write_corners(const TrilinearArgs<T, kAxes>& a, int64_t point, int32_t* queries) {
  const PointCell<T, kAxes> cell(a, point);
  constexpr int columns = 1 + kAxes;
  for (int c = 0; c < a.kCorners; ++c) {
    int32_t* query = queries + (point * a.kCorners + c) * columns;
    const bool exists = cell.exists(c);
    query[0] = a.batch[point];
    for (int d = 0; d < kAxes; ++d)
      query[1 + d] = exists ? static_cast<int32_t>(cell.coordinate(c, d)) : 0;
  }
}

// The shares of the corners that have a row, and their sum.
template <typename T, int kAxes>
FL_HD T found_shares(const PointCell<T, kAxes>& cell, const int32_t* rows, T* shares) {
  T total = 0;
  for (int c = 0; c < (1 << kAxes); ++c) {
    shares[c] = rows[c] >= 0 && cell.exists(c) ? cell.share(c) : T(0);
    total += shares[c];
  }
  return total;
}

template <typename T, int kAxes>
FL_HD void write_weights(const TrilinearArgs<T, kAxes>& a, const int32_t* rows, int64_t point,
                         int32_t* found, T* weights) {
  const PointCell<T, kAxes> cell(a, point);
  const int64_t first = point * a.kCorners;
  T shares[a.kCorners];
  const T total = found_shares(cell, rows + first, shares);
  const T divisor = a.renormalise && total > T(0) ? total : T(1);
  for (int c = 0; c < a.kCorners; ++c) {
    found[first + c] = cell.exists(c) ? rows[first + c] : -1;
    weights[first + c] = shares[c] / divisor;
  }
}

// d loss / d point, given d loss / d weights. With w = s / S for shares s and their sum S,
// d loss / d s_c = (g_c - sum_k g_k w_k) / S.
template <typename T, int kAxes>
FL_HD void write_gradient(const TrilinearArgs<T, kAxes>& a, const int32_t* rows, const T* g_weights,
                          int64_t point, T* g_points) {
  const PointCell<T, kAxes> cell(a, point);
  const int64_t first = point * a.kCorners;
  T shares[a.kCorners];
  const T total = found_shares(cell, rows + first, shares);
  const bool divided = a.renormalise && total > T(0);
  T mean = 0;
  if (divided)
    for (int c = 0; c < a.kCorners; ++c) mean += g_weights[first + c] * shares[c] / total;
  T sums[kAxes] = {};
  for (int c = 0; c < a.kCorners; ++c) {
    if (rows[first + c] < 0 || !cell.exists(c)) continue;
    const T g = (g_weights[first + c] - mean) / (divided ? total : T(1));
    for (int d = 0; d < kAxes; ++d) sums[d] += g * cell.slope(c, d);
  }
  for (int d = 0; d < kAxes; ++d) g_points[point * kAxes + d] = sums[d];
}

template <typename Args>
struct CornerWork {
  Args a;
  int32_t* queries;
  FL_HD void operator()(int64_t point) const { write_corners(a, point, queries); }
};

template <typename Args>
struct WeightWork {
  Args a;
  const int32_t* rows;
  int32_t* found;
  typename Args::Scalar* weights;
  FL_HD void operator()(int64_t point) const { write_weights(a, rows, point, found, weights); }
};

template <typename Args>
struct GradientWork {
  Args a;
  const int32_t* rows;
  const typename Args::Scalar* g_weights;
  typename Args::Scalar* g_points;
  FL_HD void operator()(int64_t point) const {
    write_gradient(a, rows, g_weights, point, g_points);
  }
};

}  // namespace fl::sparse
