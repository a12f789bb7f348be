// SPDX-License-Identifier: Apache-2.0
//
// The winning planes as torch sees them: checks and outputs, with the work left to a Backend.
#pragma once

#include <tuple>

#include "core/check.h"
#include "match/sweep.h"
#include "match/winner.h"

namespace fl::match {

struct WinnerArgs {
  const uint16_t* total;  // [pixels, planes]
  const uint8_t* cost;    // [pixels, planes]
  float *plane, *raw, *margin;
  int64_t pixels;
  int planes;
};

FL_HD void store_winner(const WinnerArgs& a, int64_t pixel, const Winner& w) {
  a.plane[pixel] = w.plane;
  a.raw[pixel] = w.cost;
  a.margin[pixel] = w.margin;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> match_winner(Tensor total, Tensor cost) {
  const char* op = "match_winner";
  check_dtype(total, ScalarType::UInt16, op, "total");
  check_shape(total, {-1, -1, -1}, op, "total");
  check_dtype(cost, ScalarType::Byte, op, "cost");
  const int64_t height = total.size(0), width = total.size(1), planes = total.size(2);
  check_shape(cost, {height, width, planes}, op, "cost");
  check_same_device(cost, total, op, "cost");
  STD_TORCH_CHECK(planes >= 3 && planes <= kMaxPlanes, op, ": total: expected 3 to ", kMaxPlanes,
                  " planes, got ", planes);
  dense_all(total, cost);
  const Tensor plane = new_empty(total, {height, width}, ScalarType::Float);
  const Tensor raw = new_empty(total, {height, width}, ScalarType::Float);
  const Tensor margin = new_empty(total, {height, width}, ScalarType::Float);
  Backend::run(WinnerArgs{input<uint16_t>(total), input<uint8_t>(cost), output<float>(plane),
                          output<float>(raw), output<float>(margin), height * width,
                          static_cast<int>(planes)},
               total);
  return {plane, raw, margin};
}

}  // namespace fl::match
