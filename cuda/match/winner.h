// SPDX-License-Identifier: Apache-2.0
//
// What one pixel takes from its aggregated costs: the cheapest plane, moved to the vertex of the
// parabola through it and its two neighbours; what it cost before aggregation; and how much dearer
// the best plane elsewhere is.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fl::match {

// Planes this near to the winner are the same answer.
constexpr int kSamePlanes = 2;

struct Winner {
  float plane, cost, margin;
};

FL_HD float parabola_offset(int left, int middle, int right) {
  const int curvature = left + right - 2 * middle;
  return curvature > 0 ? 0.5f * static_cast<float>(left - right) / static_cast<float>(curvature)
                       : 0.0f;
}

// `best` is the first of the least totals.
FL_HD Winner finish_winner(const uint16_t* total, const uint8_t* cost, int planes, int best,
                           int rival) {
  const bool inner = best > 0 && best < planes - 1;
  const float offset =
      inner ? parabola_offset(total[best - 1], total[best], total[best + 1]) : 0.0f;
  const float margin =
      rival > 0 ? 1.0f - static_cast<float>(total[best]) / static_cast<float>(rival) : 0.0f;
  return {static_cast<float>(best) + offset, static_cast<float>(cost[best]) * (1.0f / 254.0f),
          margin};
}

}  // namespace fl::match
