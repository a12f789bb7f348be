// SPDX-License-Identifier: Apache-2.0
//
// Compositing as torch sees it: checks and outputs, the work left to a Backend.
#pragma once

#include <tuple>

#include "volume/composite.h"
#include "volume/rays_entry.h"

namespace fl::volume {

inline void check_composite(const std::optional<Tensor>& t_starts,
                            const std::optional<Tensor>& t_ends, const Tensor& values,
                            const char* op) {
  check_float(values, op, "values");
  STD_TORCH_CHECK(t_starts.has_value() == t_ends.has_value(), op,
                  ": expected t_starts and t_ends together, or neither");
  if (!t_starts.has_value()) return;
  check_like(*t_starts, values, op, "t_starts");
  check_like(*t_ends, values, op, "t_ends");
}

template <typename T>
CompositeArgs<T> composite_args(const std::optional<Tensor>& t_starts,
                                const std::optional<Tensor>& t_ends, const Tensor& values) {
  return {optional_input<T>(t_starts), optional_input<T>(t_ends), input<T>(values)};
}

// alphas is a tensor of no elements where values are the alphas.
template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> volume_composite(std::optional<Tensor> t_starts,
                                                    std::optional<Tensor> t_ends, Tensor values,
                                                    std::optional<Tensor> packed_info) {
  const char* op = "volume_composite";
  check_composite(t_starts, t_ends, values, op);
  dense_all(t_starts, t_ends);
  make_dense(values);
  const Rays rays = make_rays(values, packed_info, op, "values");
  const bool covered = Backend::covers(rays, op), densities = t_starts.has_value();
  const Tensor weights = new_samples(values, covered), trans = new_samples(values, covered);
  const Tensor alphas = densities ? new_samples(values, covered) : new_empty(values, {0});
  dispatch_float(values, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 CompositeWork<T>{composite_args<T>(t_starts, t_ends, values), output<T>(weights),
                                  output<T>(trans), densities ? output<T>(alphas) : nullptr},
                 values);
  });
  return {weights, trans, alphas};
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> volume_composite_backward(
    std::optional<Tensor> t_starts, std::optional<Tensor> t_ends, Tensor values,
    std::optional<Tensor> packed_info, Tensor trans, std::optional<Tensor> g_weights,
    std::optional<Tensor> g_trans, std::optional<Tensor> g_alphas) {
  const char* op = "volume_composite_backward";
  check_composite(t_starts, t_ends, values, op);
  check_like(trans, values, op, "trans");
  const bool densities = t_starts.has_value();
  if (!densities) g_alphas.reset();
  if (g_weights.has_value()) check_like(*g_weights, values, op, "g_weights");
  if (g_trans.has_value()) check_like(*g_trans, values, op, "g_trans");
  if (g_alphas.has_value()) check_like(*g_alphas, values, op, "g_alphas");
  dense_all(t_starts, t_ends, g_weights, g_trans, g_alphas);
  dense_all(values, trans);
  const Rays rays = make_rays(values, packed_info, op, "values");
  const bool covered = Backend::covers(rays, op);
  const Tensor g_values = new_samples(values, covered);
  const Tensor g_starts = densities ? new_samples(values, covered) : new_empty(values, {0});
  const Tensor g_ends = densities ? new_samples(values, covered) : new_empty(values, {0});
  dispatch_float(values, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(
        rays,
        CompositeBackwardWork<T>{composite_args<T>(t_starts, t_ends, values), input<T>(trans),
                                 optional_input<T>(g_weights), optional_input<T>(g_trans),
                                 optional_input<T>(g_alphas), output<T>(g_starts),
                                 output<T>(g_ends), output<T>(g_values)},
        values);
  });
  return {g_starts, g_ends, g_values};
}

template <typename Backend>
Tensor volume_visibility(std::optional<Tensor> t_starts, std::optional<Tensor> t_ends,
                         Tensor values, std::optional<Tensor> packed_info,
                         std::optional<Tensor> prefix_trans, double early_stop_eps,
                         double alpha_thre) {
  const char* op = "volume_visibility";
  check_composite(t_starts, t_ends, values, op);
  if (prefix_trans.has_value()) check_like(*prefix_trans, values, op, "prefix_trans");
  dense_all(t_starts, t_ends, prefix_trans);
  make_dense(values);
  const Rays rays = make_rays(values, packed_info, op, "values");
  const Tensor visible = new_samples(values, Backend::covers(rays, op), ScalarType::Bool);
  dispatch_float(values, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 VisibilityWork<T>{composite_args<T>(t_starts, t_ends, values),
                                   optional_input<T>(prefix_trans), static_cast<T>(early_stop_eps),
                                   static_cast<T>(alpha_thre), output<bool>(visible)},
                 values);
  });
  return visible;
}

}  // namespace fl::volume
