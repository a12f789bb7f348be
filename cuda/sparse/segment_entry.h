// SPDX-License-Identifier: Apache-2.0
//
// Segments as torch sees them: checks and outputs, with the work left to a Backend.
#pragma once

#include <limits>
#include <tuple>

#include "core/check.h"
#include "sparse/element_entry.h"
#include "sparse/segment.h"

namespace fl::sparse {

inline Indices make_indices(Tensor& indices, const char* op, const char* argument) {
  const bool wide = indices.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || indices.scalar_type() == ScalarType::Int, op, ": ", argument,
                  ": expected int32 or int64, got dtype code ",
                  static_cast<int>(indices.scalar_type()));
  make_dense(indices);
  return {indices.const_data_ptr(), wide};
}

inline void check_count(int64_t count, const char* op, const char* argument) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(count >= 0 && count < most, op, ": ", argument, ": expected 0 to ", most - 1,
                  ", got ", count);
}

struct SortArgs {
  Indices segments;  // [n]
  int64_t n, n_segments;
  int32_t* order;   // [n]
  int64_t* starts;  // [n_segments + 1]
  bool is_sorted;

  // Rows of no segment come last.
  FL_HD uint32_t key(int64_t row) const {
    const int64_t segment = segments[row];
    return static_cast<uint32_t>(segment < 0 || segment > n_segments ? n_segments : segment);
  }
  int key_bits() const {
    int bits = 1;
    while ((int64_t{1} << bits) <= n_segments) ++bits;
    return bits;
  }
};

template <typename Backend>
std::tuple<Tensor, Tensor> sparse_segment_sort(Tensor segments, int64_t n_segments,
                                               bool is_sorted) {
  const char* op = "sparse_segment_sort";
  check_shape(segments, {-1}, op, "segments");
  check_count(segments.size(0), op, "segments");
  check_count(n_segments, op, "n_segments");
  const Indices indices = make_indices(segments, op, "segments");
  const int64_t n = segments.size(0);
  Tensor order = new_empty(segments, {n}, ScalarType::Int);
  Tensor starts = new_empty(segments, {n_segments + 1}, ScalarType::Long);
  Backend::sort(
      SortArgs{indices, n, n_segments, output<int32_t>(order), output<int64_t>(starts), is_sorted},
      segments);
  return {order, starts};
}

inline Segments make_segments(Tensor& order, Tensor& starts, const Tensor& like, const char* op) {
  check_shape(order, {-1}, op, "order");
  check_dtype(order, ScalarType::Int, op, "order");
  check_same_device(order, like, op, "order");
  check_shape(starts, {-1}, op, "starts");
  check_dtype(starts, ScalarType::Long, op, "starts");
  check_same_device(starts, like, op, "starts");
  STD_TORCH_CHECK(starts.size(0) > 0, op, ": starts: expected 1 or more, got none");
  dense_all(order, starts);
  return {input<int32_t>(order), input<int64_t>(starts), order.size(0), starts.size(0) - 1};
}

template <typename Backend>
std::tuple<Tensor, Tensor> sparse_segment_reduce(Tensor features, Tensor, Tensor order,
                                                 Tensor starts, int64_t mode) {
  const char* op = "sparse_segment_reduce";
  check_element(features, op, "features");
  check_shape(features, {-1, -1}, op, "features");
  STD_TORCH_CHECK(mode >= 0 && mode <= 3, op, ": mode: expected 0 to 3, got ", mode);
  const Segments segments = make_segments(order, starts, features, op);
  make_dense(features);
  const int64_t n = segments.n_segments, channels = features.size(1);
  const bool picks = mode >= 2;
  Tensor out = new_empty(features, {n, channels});
  Tensor picked = new_empty(features, {picks ? n : 0, picks ? channels : 0}, ScalarType::Int);
  dispatch_element(features, [&](auto t) {
    using T = decltype(t);
    Backend::reduce(ReduceArgs<T>{segments, input<T>(features), nullptr, output<T>(out),
                                  output<int32_t>(picked), features.size(0), channels, 1,
                                  static_cast<Reduction>(mode)},
                    features);
  });
  return {out, picked};
}

template <typename Backend>
Tensor sparse_segment_picked_backward(Tensor gradient, Tensor picked, int64_t n_rows) {
  const char* op = "sparse_segment_picked_backward";
  check_element(gradient, op, "gradient");
  check_shape(gradient, {-1, -1}, op, "gradient");
  check_shape(picked, {gradient.size(0), gradient.size(1)}, op, "picked");
  check_dtype(picked, ScalarType::Int, op, "picked");
  check_same_device(picked, gradient, op, "picked");
  check_count(n_rows, op, "n_rows");
  dense_all(gradient, picked);
  Tensor g_features = new_zeros(gradient, {n_rows, gradient.size(1)});
  dispatch_element(gradient, [&](auto t) {
    using T = decltype(t);
    Backend::put(PickedArgs<T>{input<T>(gradient), input<int32_t>(picked), output<T>(g_features),
                               gradient.size(0), n_rows, gradient.size(1)},
                 gradient);
  });
  return g_features;
}

}  // namespace fl::sparse
