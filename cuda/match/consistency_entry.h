// SPDX-License-Identifier: Apache-2.0
//
// Consistency of two depth maps as torch sees it: checks and outputs, the work left to a Backend.
#pragma once

#include "core/check.h"
#include "match/consistency.h"

namespace fl::match {

inline void check_depth(const Tensor& depth, const char* op, const char* argument) {
  check_dtype(depth, ScalarType::Float, op, argument);
  check_shape(depth, {-1, -1}, op, argument);
  check_image_size(depth.size(1), depth.size(0), op);
}

template <typename Backend>
Tensor match_consistency(Tensor depth, Tensor neighbour_depth, Tensor there, Tensor back,
                         double depth_tolerance, double pixel_tolerance) {
  const char* op = "match_consistency";
  check_depth(depth, op, "depth");
  check_depth(neighbour_depth, op, "neighbour_depth");
  check_same_device(neighbour_depth, depth, op, "neighbour_depth");
  check_dtype(there, ScalarType::Float, op, "there");
  check_shape(there, {3, 4}, op, "there");
  check_same_device(there, depth, op, "there");
  check_dtype(back, ScalarType::Float, op, "back");
  check_shape(back, {3, 4}, op, "back");
  check_same_device(back, depth, op, "back");
  STD_TORCH_CHECK(depth_tolerance > 0.0 && pixel_tolerance > 0.0, op,
                  ": depth_tolerance, pixel_tolerance: expected numbers above 0, got ",
                  depth_tolerance, ", ", pixel_tolerance);
  dense_all(depth, neighbour_depth, there, back);
  const Tensor agreement = new_empty(depth, {depth.size(0), depth.size(1)});
  Backend::run(
      ConsistencyArgs{input<float>(depth), input<float>(neighbour_depth), input<float>(there),
                      input<float>(back), output<float>(agreement), static_cast<int>(depth.size(1)),
                      static_cast<int>(depth.size(0)), static_cast<int>(neighbour_depth.size(1)),
                      static_cast<int>(neighbour_depth.size(0)),
                      static_cast<float>(depth_tolerance), static_cast<float>(pixel_tolerance)},
      depth);
  return agreement;
}

}  // namespace fl::match
