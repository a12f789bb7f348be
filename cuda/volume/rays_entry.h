// SPDX-License-Identifier: Apache-2.0
//
// Samples along rays as torch sees them: [n_samples] with packed_info int64 [n_rays, 2], or
// [n_rays, n_samples] without.
#pragma once

#include "core/check.h"
#include "volume/rays.h"

namespace fl::volume {

// The rays of a tensor of one value a sample. Makes packed_info contiguous.
inline Rays make_rays(const Tensor& samples, std::optional<Tensor>& packed_info, const char* op,
                      const char* argument) {
  if (!packed_info.has_value()) {
    check_shape(samples, {-1, -1}, op, argument);
    return {nullptr, samples.size(0), samples.size(1), samples.numel()};
  }
  check_shape(samples, {-1}, op, argument);
  check_shape(*packed_info, {-1, 2}, op, "packed_info");
  check_dtype(*packed_info, ScalarType::Long, op, "packed_info");
  check_same_device(*packed_info, samples, op, "packed_info");
  make_dense(packed_info);
  return {input<int64_t>(*packed_info), packed_info->size(0), 0, samples.numel()};
}

// That another tensor holds one value a sample, of the same type.
inline void check_like(const Tensor& tensor, const Tensor& like, const char* op,
                       const char* argument) {
  if (like.dim() == 1)
    check_shape(tensor, {like.size(0)}, op, argument);
  else
    check_shape(tensor, {like.size(0), like.size(1)}, op, argument);
  check_dtype(tensor, like.scalar_type(), op, argument);
  check_same_device(tensor, like, op, argument);
}

// One value a sample: zeros where some samples belong to no ray.
inline Tensor new_samples(const Tensor& like, bool covered,
                          std::optional<ScalarType> dtype = std::nullopt) {
  if (like.dim() == 1)
    return covered ? new_empty(like, {like.size(0)}, dtype)
                   : new_zeros(like, {like.size(0)}, dtype);
  return covered ? new_empty(like, {like.size(0), like.size(1)}, dtype)
                 : new_zeros(like, {like.size(0), like.size(1)}, dtype);
}

}  // namespace fl::volume
