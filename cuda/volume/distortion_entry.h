// SPDX-License-Identifier: Apache-2.0
//
// The distortion loss as torch sees it: checks and outputs, the work left to a Backend.
#pragma once

#include <tuple>

#include "volume/distortion.h"
#include "volume/rays_entry.h"

namespace fl::volume {

inline void check_distortion(const Tensor& weights, const Tensor& t_starts, const Tensor& t_ends,
                             const char* op) {
  check_float(weights, op, "weights");
  check_like(t_starts, weights, op, "t_starts");
  check_like(t_ends, weights, op, "t_ends");
}

template <typename T>
DistortionArgs<T> distortion_args(const Tensor& weights, const Tensor& t_starts,
                                  const Tensor& t_ends) {
  return {input<T>(weights), input<T>(t_starts), input<T>(t_ends)};
}

template <typename Backend>
Tensor volume_distortion(Tensor weights, Tensor t_starts, Tensor t_ends,
                         std::optional<Tensor> packed_info) {
  const char* op = "volume_distortion";
  check_distortion(weights, t_starts, t_ends, op);
  dense_all(weights, t_starts, t_ends);
  const Rays rays = make_rays(weights, packed_info, op, "weights");
  Backend::covers(rays, op);
  const Tensor losses = new_empty(weights, {rays.n_rays});
  dispatch_float(weights, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(
        rays, DistortionWork<T>{distortion_args<T>(weights, t_starts, t_ends), output<T>(losses)},
        weights);
  });
  return losses;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> volume_distortion_backward(Tensor weights, Tensor t_starts,
                                                              Tensor t_ends,
                                                              std::optional<Tensor> packed_info,
                                                              Tensor g_losses) {
  const char* op = "volume_distortion_backward";
  check_distortion(weights, t_starts, t_ends, op);
  dense_all(weights, t_starts, t_ends, g_losses);
  const Rays rays = make_rays(weights, packed_info, op, "weights");
  check_shape(g_losses, {rays.n_rays}, op, "g_losses");
  check_dtype(g_losses, weights.scalar_type(), op, "g_losses");
  check_same_device(g_losses, weights, op, "g_losses");
  const bool covered = Backend::covers(rays, op);
  const Tensor g_weights = new_samples(weights, covered), g_starts = new_samples(weights, covered),
               g_ends = new_samples(weights, covered);
  dispatch_float(weights, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(
        rays,
        DistortionBackwardWork<T>{distortion_args<T>(weights, t_starts, t_ends), input<T>(g_losses),
                                  output<T>(g_weights), output<T>(g_starts), output<T>(g_ends)},
        weights);
  });
  return {g_weights, g_starts, g_ends};
}

}  // namespace fl::volume
