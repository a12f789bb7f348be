// SPDX-License-Identifier: Apache-2.0
//
// Whether a neighbour's own depth confirms a pixel's: the pixel's point is seen in the neighbour,
// the neighbour's depth there is a second point, and that one is seen in the reference. The two
// must be near to each other in depth and in the reference image.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "match/sweep.h"

namespace fl::match {

struct ConsistencyArgs {
  const float* depth;            // [height, width], 0 where unknown
  const float* neighbour_depth;  // [neighbour_height, neighbour_width]
  const float *there, *back;     // warps [3, 4] at inverse depth, reference to neighbour and back
  float* agreement;              // [height, width]
  int width, height, neighbour_width, neighbour_height;
  float depth_tolerance, pixel_tolerance;
};

struct Projected {
  float x, y, ratio;  // depth there over depth here
};

FL_HD Projected project_pixel(const float* m, float x, float y, float w) {
  const float s = m[8] * x + (m[9] * y + (m[10] + w * m[11]));
  const float inverse = 1.0f / (s > kNearestRatio ? s : 1.0f);
  return {(m[0] * x + (m[1] * y + (m[2] + w * m[3]))) * inverse,
          (m[4] * x + (m[5] * y + (m[6] + w * m[7]))) * inverse, s};
}

// Neither unknown, nor infinite, nor NaN.
FL_HD bool is_depth(float depth) { return depth > 0.0f && depth < 3e38f; }

// 1 where the points coincide, falling to 0 at a tolerance and beyond; -1 where the neighbour does
// not see the point or does not know its depth.
FL_HD float agreement_of(const ConsistencyArgs& a, int x, int y) {
  const float depth = a.depth[static_cast<int64_t>(y) * a.width + x];
  if (!is_depth(depth)) return -1.0f;
  const float px = static_cast<float>(x) + 0.5f, py = static_cast<float>(y) + 0.5f;
  const Projected p = project_pixel(a.there, px, py, 1.0f / depth);
  if (!(p.ratio > kNearestRatio && p.x >= 0.0f && p.y >= 0.0f &&
        p.x < static_cast<float>(a.neighbour_width) &&
        p.y < static_cast<float>(a.neighbour_height)))
    return -1.0f;
  // The pixel's own centre, not where the point fell: depths are not to be mixed across edges.
  const int u = static_cast<int>(p.x), v = static_cast<int>(p.y);
  const float found = a.neighbour_depth[static_cast<int64_t>(v) * a.neighbour_width + u];
  if (!is_depth(found)) return -1.0f;
  const Projected q = project_pixel(a.back, p.x, p.y, 1.0f / found);
  if (!(q.ratio > kNearestRatio)) return 0.0f;
  const float apart = std::fabs(q.ratio * found - depth) / depth;
  const float dx = q.x - px, dy = q.y - py;
  const float pixels = std::sqrt(dx * dx + dy * dy);
  const float by_depth = apart / a.depth_tolerance, by_pixels = pixels / a.pixel_tolerance;
  const float worst = by_depth > by_pixels ? by_depth : by_pixels;
  return worst < 1.0f ? 1.0f - worst : 0.0f;
}

}  // namespace fl::match
