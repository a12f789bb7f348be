// SPDX-License-Identifier: Apache-2.0
//
// Pooling as torch sees it: checks and outputs, with the work left to a Backend.
#pragma once

#include <limits>
#include <tuple>

#include "sparse/element_entry.h"
#include "sparse/pool.h"

namespace fl::sparse {

// The forms of a map; those that a backend does not read may be empty.
struct PoolMapInput {
  Tensor from_rows, to_rows, starts, table;

  PoolMapInput(Tensor from_rows_in, Tensor to_rows_in, Tensor starts_in, Tensor table_in,
               const Tensor& like, const char* op)
      : from_rows(from_rows_in), to_rows(to_rows_in), starts(starts_in), table(table_in) {
    check_shape(from_rows, {-1}, op, "in_rows");
    check_dtype(from_rows, ScalarType::Int, op, "in_rows");
    check_shape(to_rows, {from_rows.size(0)}, op, "out_rows");
    check_dtype(to_rows, ScalarType::Int, op, "out_rows");
    check_shape(starts, {-1}, op, "starts");
    check_dtype(starts, ScalarType::Long, op, "starts");
    check_shape(table, {-1, -1}, op, "table");
    check_dtype(table, ScalarType::Int, op, "table");
    check_same_device(from_rows, like, op, "in_rows");
    check_same_device(to_rows, like, op, "out_rows");
    check_same_device(starts, like, op, "starts");
    check_same_device(table, like, op, "table");
    dense_all(from_rows, to_rows, starts, table);
  }

  PoolMap map(int64_t n_taps) const {
    return {input<int32_t>(from_rows), input<int32_t>(to_rows), input<int64_t>(starts),
            input<int32_t>(table),     from_rows.size(0),       static_cast<int>(n_taps)};
  }
};

template <typename Backend>
std::tuple<Tensor, Tensor> sparse_pool(Tensor features, int64_t n_out, int64_t mode, Tensor in_rows,
                                       Tensor out_rows, Tensor starts, Tensor table, Tensor, Tensor,
                                       Tensor) {
  const char* op = "sparse_pool";
  check_element(features, op, "features");
  check_shape(features, {-1, -1}, op, "features");
  STD_TORCH_CHECK(n_out >= 0, op, ": n_out: expected at least 0, got ", n_out);
  STD_TORCH_CHECK(mode >= 0 && mode <= 2, op, ": mode: expected 0 to 2, got ", mode);
  const PoolMapInput in(in_rows, out_rows, starts, table, features, op);
  const PoolKind kind = static_cast<PoolKind>(mode);
  const int64_t n_taps = Backend::check_map(in, n_out, op);
  constexpr int64_t most = std::numeric_limits<int16_t>::max();
  STD_TORCH_CHECK(n_taps <= most, op, ": expected at most ", most, " taps, got ", n_taps);
  make_dense(features);
  const int64_t channels = features.size(1);
  Tensor out = new_empty(features, {n_out, channels});
  Tensor kept = new_empty(features,
                          {kind == PoolKind::sum ? 0 : n_out, kind == PoolKind::max    ? channels
                                                              : kind == PoolKind::mean ? 1
                                                                                       : 0},
                          ScalarType::Short);
  dispatch_element(features, [&](auto t) {
    using T = decltype(t);
    Backend::run(
        PoolArgs<T>{in.map(n_taps), input<T>(features), output<T>(out), output<int16_t>(kept),
                    nullptr, features.size(0), n_out, channels, kind},
        features, op);
  });
  return {out, kept};
}

// The gradient to features of sums, or of max if `kept` is given: over the reverse map.
template <typename Backend>
Tensor sparse_pool_backward(Tensor gradient, std::optional<Tensor> kept, int64_t n_in,
                            Tensor in_rows, Tensor out_rows, Tensor starts, Tensor table) {
  const char* op = "sparse_pool_backward";
  check_element(gradient, op, "gradient");
  check_shape(gradient, {-1, -1}, op, "gradient");
  STD_TORCH_CHECK(n_in >= 0, op, ": n_in: expected at least 0, got ", n_in);
  const int64_t n_out = gradient.size(0), channels = gradient.size(1);
  if (kept.has_value()) {
    check_shape(*kept, {n_out, channels}, op, "kept");
    check_dtype(*kept, ScalarType::Short, op, "kept");
    check_same_device(*kept, gradient, op, "kept");
  }
  const PoolMapInput in(in_rows, out_rows, starts, table, gradient, op);
  const int64_t n_taps = Backend::check_map(in, n_in, op);
  make_dense(gradient);
  make_dense(kept);
  Tensor g_features = new_empty(gradient, {n_in, channels});
  dispatch_element(gradient, [&](auto t) {
    using T = decltype(t);
    Backend::run(PoolArgs<T>{in.map(n_taps), input<T>(gradient), output<T>(g_features), nullptr,
                             optional_input<int16_t>(kept), n_out, n_in, channels,
                             kept.has_value() ? PoolKind::picked : PoolKind::sum},
                 gradient, op);
  });
  return g_features;
}

}  // namespace fl::sparse
