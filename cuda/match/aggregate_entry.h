// SPDX-License-Identifier: Apache-2.0
//
// Semi-global aggregation as torch sees it: checks and outputs, with the work left to a Backend.
#pragma once

#include "core/check.h"
#include "match/aggregate.h"
#include "match/sweep.h"

namespace fl::match {

struct AggregateArgs {
  const uint8_t* cost;   // [height, width, planes]
  const int16_t* guide;  // [height, width]
  uint16_t* total;       // [height, width, planes]
  int width, height, planes;
  Penalties penalties;
};

template <typename Backend>
Tensor match_sgm(Tensor cost, Tensor guide, int64_t p1, int64_t p2, double edge) {
  const char* op = "match_sgm";
  check_dtype(cost, ScalarType::Byte, op, "cost");
  check_shape(cost, {-1, -1, -1}, op, "cost");
  check_image_size(cost.size(1), cost.size(0), op);
  const int64_t planes = cost.size(2);
  STD_TORCH_CHECK(planes >= 3 && planes <= kMaxPlanes, op, ": cost: expected 3 to ", kMaxPlanes,
                  " planes, got ", planes);
  check_dtype(guide, ScalarType::Short, op, "guide");
  check_shape(guide, {cost.size(0), cost.size(1)}, op, "guide");
  check_same_device(guide, cost, op, "guide");
  STD_TORCH_CHECK(p1 >= 0 && p1 <= p2 && p2 <= kMaxPenalty, op,
                  ": p1, p2: expected 0 <= p1 <= p2 <= ", kMaxPenalty, ", got ", p1, ", ", p2);
  STD_TORCH_CHECK(edge > 0.0 && edge <= 1e6, op, ": edge: expected a number in (0, 1e6], got ",
                  edge);
  dense_all(cost, guide);
  Tensor total = new_empty(cost, {cost.size(0), cost.size(1), planes}, ScalarType::UInt16);
  const AggregateArgs args{input<uint8_t>(cost),
                           input<int16_t>(guide),
                           output<uint16_t>(total),
                           static_cast<int>(cost.size(1)),
                           static_cast<int>(cost.size(0)),
                           static_cast<int>(planes),
                           {static_cast<int>(p1), static_cast<int>(p2), static_cast<float>(edge)}};
  Backend::run(args, cost);
  return total;
}

}  // namespace fl::match
