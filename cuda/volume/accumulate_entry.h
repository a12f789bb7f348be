// SPDX-License-Identifier: Apache-2.0
//
// Sums along rays as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include <tuple>

#include "volume/accumulate.h"
#include "volume/rays_entry.h"

namespace fl::volume {

// The number of channels, after checks.
inline int64_t check_accumulate(const Tensor& weights, const std::optional<Tensor>& values,
                                const char* op) {
  check_float(weights, op, "weights");
  if (!values.has_value()) return 1;
  if (weights.dim() == 1)
    check_shape(*values, {weights.size(0), -1}, op, "values");
  else
    check_shape(*values, {weights.size(0), weights.size(1), -1}, op, "values");
  check_dtype(*values, weights.scalar_type(), op, "values");
  check_same_device(*values, weights, op, "values");
  return values->size(values->dim() - 1);
}

inline Tensor new_values(const Tensor& weights, int64_t channels, bool covered) {
  if (weights.dim() == 1)
    return covered ? new_empty(weights, {weights.size(0), channels})
                   : new_zeros(weights, {weights.size(0), channels});
  return new_empty(weights, {weights.size(0), weights.size(1), channels});
}

template <typename Backend>
Tensor volume_accumulate(Tensor weights, std::optional<Tensor> values,
                         std::optional<Tensor> packed_info) {
  const char* op = "volume_accumulate";
  const int64_t channels = check_accumulate(weights, values, op);
  make_dense(weights);
  make_dense(values);
  const Rays rays = make_rays(weights, packed_info, op, "weights");
  Backend::covers(rays, op);
  const Tensor outputs = new_empty(weights, {rays.n_rays, channels});
  dispatch_float(weights, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 AccumulateWork<T>{input<T>(weights), optional_input<T>(values), output<T>(outputs),
                                   channels},
                 weights);
  });
  return outputs;
}

// What is not needed comes out as a tensor of no elements.
template <typename Backend>
std::tuple<Tensor, Tensor> volume_accumulate_backward(Tensor weights, std::optional<Tensor> values,
                                                      std::optional<Tensor> packed_info,
                                                      Tensor g_outputs, bool needs_weights,
                                                      bool needs_values) {
  const char* op = "volume_accumulate_backward";
  const int64_t channels = check_accumulate(weights, values, op);
  dense_all(weights, g_outputs);
  make_dense(values);
  const Rays rays = make_rays(weights, packed_info, op, "weights");
  check_shape(g_outputs, {rays.n_rays, channels}, op, "g_outputs");
  check_dtype(g_outputs, weights.scalar_type(), op, "g_outputs");
  check_same_device(g_outputs, weights, op, "g_outputs");
  needs_values = needs_values && values.has_value();
  const bool covered = Backend::covers(rays, op);
  const Tensor g_weights = needs_weights ? new_samples(weights, covered) : new_empty(weights, {0});
  const Tensor g_values =
      needs_values ? new_values(weights, channels, covered) : new_empty(weights, {0});
  dispatch_float(weights, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(
        rays,
        AccumulateBackwardWork<T>{input<T>(weights), optional_input<T>(values), input<T>(g_outputs),
                                  needs_weights ? output<T>(g_weights) : nullptr,
                                  needs_values ? output<T>(g_values) : nullptr, channels},
        weights);
  });
  return {g_weights, g_values};
}

}  // namespace fl::volume
