// SPDX-License-Identifier: Apache-2.0
//
// The voxels around points as torch sees them: checks and outputs, with the work left to a Backend.
#pragma once

#include <tuple>
#include <type_traits>

#include "core/check.h"
#include "sparse/trilinear.h"

namespace fl::sparse {

inline void check_points(const Tensor& points, const char* op) {
  check_float(points, op, "points");
  check_shape(points, {-1, -1}, op, "points");
  STD_TORCH_CHECK(points.size(1) >= 1 && points.size(1) <= kMostAxes, op,
                  ": points: expected 1 to 4 columns, got ", points.size(1));
}

// Calls f(TrilinearArgs<T, D>) for points of T in D dimensions.
template <typename F>
void dispatch_points(const Tensor& points, const int32_t* batch, double value_at, bool renormalise,
                     const F& f) {
  const auto call = [&](auto zero, auto axes) {
    using T = decltype(zero);
    f(TrilinearArgs<T, decltype(axes)::value>{input<T>(points), batch, points.size(0),
                                              static_cast<T>(value_at), renormalise});
  };
  dispatch_float(points, [&](auto zero) {
    const int64_t axes = points.size(1);
    if (axes == 1) return call(zero, std::integral_constant<int, 1>{});
    if (axes == 2) return call(zero, std::integral_constant<int, 2>{});
    if (axes == 3) return call(zero, std::integral_constant<int, 3>{});
    call(zero, std::integral_constant<int, 4>{});
  });
}

template <typename Backend>
Tensor sparse_corners(Tensor points, Tensor batch, double value_at) {
  const char* op = "sparse_corners";
  check_points(points, op);
  check_shape(batch, {points.size(0)}, op, "batch");
  check_dtype(batch, ScalarType::Int, op, "batch");
  check_same_device(batch, points, op, "batch");
  dense_all(points, batch);
  const int64_t corners = int64_t{1} << points.size(1);
  Tensor queries =
      new_empty(points, {points.size(0) * corners, 1 + points.size(1)}, ScalarType::Int);
  dispatch_points(points, input<int32_t>(batch), value_at, false, [&](const auto& a) {
    using Args = std::decay_t<decltype(a)>;
    Backend::each(a.n, points, CornerWork<Args>{a, output<int32_t>(queries)});
  });
  return queries;
}

inline void check_corner_rows(const Tensor& rows, const Tensor& points, const char* op) {
  check_shape(rows, {points.size(0), int64_t{1} << points.size(1)}, op, "rows");
  check_dtype(rows, ScalarType::Int, op, "rows");
  check_same_device(rows, points, op, "rows");
}

// Weights, and the rows without those that were found for corners that do not exist.
template <typename Backend>
std::tuple<Tensor, Tensor> sparse_corner_weights(Tensor points, Tensor rows, double value_at,
                                                 bool renormalise) {
  const char* op = "sparse_corner_weights";
  check_points(points, op);
  check_corner_rows(rows, points, op);
  dense_all(points, rows);
  Tensor weights = new_empty(points, {rows.size(0), rows.size(1)});
  Tensor found = new_empty(rows, {rows.size(0), rows.size(1)});
  dispatch_points(points, nullptr, value_at, renormalise, [&](const auto& a) {
    using Args = std::decay_t<decltype(a)>;
    using T = typename Args::Scalar;
    Backend::each(
        a.n, points,
        WeightWork<Args>{a, input<int32_t>(rows), output<int32_t>(found), output<T>(weights)});
  });
  return {weights, found};
}

template <typename Backend>
Tensor sparse_corner_weights_backward(Tensor points, Tensor rows, double value_at, bool renormalise,
                                      Tensor gradient) {
  const char* op = "sparse_corner_weights_backward";
  check_points(points, op);
  check_corner_rows(rows, points, op);
  check_shape(gradient, {rows.size(0), rows.size(1)}, op, "gradient");
  check_dtype(gradient, points.scalar_type(), op, "gradient");
  check_same_device(gradient, points, op, "gradient");
  dense_all(points, rows, gradient);
  Tensor g_points = new_empty(points, {points.size(0), points.size(1)});
  dispatch_points(points, nullptr, value_at, renormalise, [&](const auto& a) {
    using Args = std::decay_t<decltype(a)>;
    using T = typename Args::Scalar;
    Backend::each(
        a.n, points,
        GradientWork<Args>{a, input<int32_t>(rows), input<T>(gradient), output<T>(g_points)});
  });
  return g_points;
}

}  // namespace fl::sparse
