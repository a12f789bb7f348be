// SPDX-License-Identifier: Apache-2.0
//
// Interpolation as torch sees it: checks and outputs, with the work left to a Backend.
#pragma once

#include <limits>
#include <optional>

#include "sparse/interpolate.h"
#include "sparse/segment_entry.h"

namespace fl::sparse {

inline void check_weights(std::optional<Tensor>& weights, int64_t queries, int64_t taps,
                          const Tensor& like, const char* op) {
  if (!weights.has_value()) return;
  check_shape(*weights, {queries, taps}, op, "weights");
  check_dtype(*weights, sum_dtype(like), op, "weights");
  check_same_device(*weights, like, op, "weights");
  make_dense(weights);
}

template <typename Backend>
Tensor sparse_interpolate(Tensor features, Tensor rows, std::optional<Tensor> weights) {
  const char* op = "sparse_interpolate";
  check_element(features, op, "features");
  check_shape(features, {-1, -1}, op, "features");
  check_shape(rows, {-1, -1}, op, "rows");
  check_same_device(rows, features, op, "rows");
  const Indices indices = make_indices(rows, op, "rows");
  const int64_t queries = rows.size(0), taps = rows.size(1), channels = features.size(1);
  check_weights(weights, queries, taps, features, op);
  make_dense(features);
  Tensor out = new_empty(features, {queries, channels});
  dispatch_element(features, [&](auto t) {
    using T = decltype(t);
    Backend::forward(
        InterpolateArgs<T>{input<T>(features), indices, optional_input<Sum<T>>(weights),
                           features.size(0), queries, taps, channels},
        output<T>(out), features);
  });
  return out;
}

// The gradient to weights: zero for what is skipped.
template <typename Backend>
Tensor sparse_interpolate_weights_backward(Tensor gradient, Tensor features, Tensor rows) {
  const char* op = "sparse_interpolate_weights_backward";
  check_element(features, op, "features");
  check_shape(features, {-1, -1}, op, "features");
  check_shape(rows, {-1, -1}, op, "rows");
  check_same_device(rows, features, op, "rows");
  const Indices indices = make_indices(rows, op, "rows");
  const int64_t queries = rows.size(0), taps = rows.size(1), channels = features.size(1);
  check_shape(gradient, {queries, channels}, op, "gradient");
  check_dtype(gradient, features.scalar_type(), op, "gradient");
  check_same_device(gradient, features, op, "gradient");
  dense_all(features, gradient);
  Tensor g_weights = new_empty(features, {queries, taps}, sum_dtype(features));
  dispatch_element(features, [&](auto t) {
    using T = decltype(t);
    Backend::weights(InterpolateArgs<T>{input<T>(features), indices, nullptr, features.size(0),
                                        queries, taps, channels},
                     input<T>(gradient), output<Sum<T>>(g_weights), features);
  });
  return g_weights;
}

// The gradient to features, given the entries of `rows` sorted by the row that they name.
template <typename Backend>
Tensor sparse_interpolate_features_backward(Tensor gradient, std::optional<Tensor> weights,
                                            Tensor order, Tensor starts, int64_t taps) {
  const char* op = "sparse_interpolate_features_backward";
  check_element(gradient, op, "gradient");
  check_shape(gradient, {-1, -1}, op, "gradient");
  STD_TORCH_CHECK(taps > 0 && taps <= std::numeric_limits<int32_t>::max(), op,
                  ": taps: expected at least 1, got ", taps);
  check_weights(weights, gradient.size(0), taps, gradient, op);
  const Segments segments = make_segments(order, starts, gradient, op);
  make_dense(gradient);
  const int64_t n = segments.n_segments, channels = gradient.size(1);
  Tensor g_features = new_empty(gradient, {n, channels});
  dispatch_element(gradient, [&](auto t) {
    using T = decltype(t);
    Backend::features(ReduceArgs<T>{segments, input<T>(gradient), optional_input<Sum<T>>(weights),
                                    output<T>(g_features), nullptr, gradient.size(0), channels,
                                    static_cast<int>(taps), Reduction::sum},
                      gradient);
  });
  return g_features;
}

}  // namespace fl::sparse
