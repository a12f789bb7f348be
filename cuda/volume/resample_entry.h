// SPDX-License-Identifier: Apache-2.0
//
// Resampling and searches as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include <tuple>

#include "volume/rays_entry.h"
#include "volume/resample.h"

namespace fl::volume {

inline void check_same_rays(const Rays& rays, const Rays& others, const char* op,
                            const char* argument) {
  STD_TORCH_CHECK(rays.n_rays == others.n_rays, op, ": ", argument, ": expected ", others.n_rays,
                  " rays, got ", rays.n_rays);
}

template <typename Backend>
std::tuple<Tensor, Tensor> volume_searchsorted(Tensor sorted, std::optional<Tensor> sorted_info,
                                               Tensor values, std::optional<Tensor> values_info) {
  const char* op = "volume_searchsorted";
  check_float(sorted, op, "sorted");
  check_dtype(values, sorted.scalar_type(), op, "values");
  check_same_device(values, sorted, op, "values");
  dense_all(sorted, values);
  const Rays keys = make_rays(sorted, sorted_info, op, "sorted");
  const Rays rays = make_rays(values, values_info, op, "values");
  check_same_rays(rays, keys, op, "values");
  Backend::covers(keys, op);
  const bool covered = Backend::covers(rays, op);
  const Tensor left = new_samples(values, covered, ScalarType::Long);
  const Tensor right = new_samples(values, covered, ScalarType::Long);
  dispatch_float(sorted, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 SearchWork<T>{input<T>(sorted), input<T>(values), keys, output<int64_t>(left),
                               output<int64_t>(right), rays.packed == nullptr},
                 sorted);
  });
  return {left, right};
}

// Outputs are packed by samples_info and intervals_info, of n_samples and n_edges in all; or
// batched without, n_samples and n_edges a ray.
template <typename Backend>
std::tuple<Tensor, Tensor> volume_resample(Tensor edges, Tensor cdfs,
                                           std::optional<Tensor> packed_info,
                                           std::optional<Tensor> samples_info,
                                           std::optional<Tensor> intervals_info, int64_t n_samples,
                                           int64_t n_edges, std::optional<Tensor> bias) {
  const char* op = "volume_resample";
  check_float(edges, op, "edges");
  check_like(cdfs, edges, op, "cdfs");
  STD_TORCH_CHECK(n_samples >= 0 && n_edges >= 0, op, ": expected n_samples, n_edges >= 0, got ",
                  n_samples, ", ", n_edges);
  STD_TORCH_CHECK(samples_info.has_value() == intervals_info.has_value(), op,
                  ": expected samples_info and intervals_info together, or neither");
  dense_all(edges, cdfs);
  const Rays source = make_rays(edges, packed_info, op, "edges");
  const bool packed = samples_info.has_value();
  if (bias.has_value()) {
    check_shape(*bias, {source.n_rays}, op, "bias");
    check_dtype(*bias, edges.scalar_type(), op, "bias");
    check_same_device(*bias, edges, op, "bias");
    make_dense(bias);
  }
  STD_TORCH_CHECK(packed || (n_samples >= 1 && n_edges == n_samples + 1), op,
                  ": n_samples, n_edges: expected at least 1 and one more, got ", n_samples, ", ",
                  n_edges);
  const Tensor samples =
      packed ? new_zeros(edges, {n_samples}) : new_empty(edges, {source.n_rays, n_samples});
  const Tensor intervals =
      packed ? new_zeros(edges, {n_edges}) : new_empty(edges, {source.n_rays, n_edges});
  const Rays rays = make_rays(samples, samples_info, op, "samples");
  const Rays intervals_rays = make_rays(intervals, intervals_info, op, "intervals");
  check_same_rays(rays, source, op, "samples_info");
  check_same_rays(intervals_rays, source, op, "intervals_info");
  for (const Rays* each : {&source, &rays, &intervals_rays}) Backend::covers(*each, op);
  dispatch_float(edges, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 ResampleWork<T>{input<T>(edges), input<T>(cdfs), optional_input<T>(bias), source,
                                 intervals_rays, output<T>(samples), output<T>(intervals)},
                 edges);
  });
  return {samples, intervals};
}

}  // namespace fl::volume
