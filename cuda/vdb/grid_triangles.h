// SPDX-License-Identifier: Apache-2.0
//
// Which voxels a triangle meets, touching included: the separating-axis test of Akenine-Moeller
// (2001) in the form of Schwarz and Seidel, "Fast parallel surface and solid voxelization on GPUs"
// (2010), where all that does not depend on the voxel is computed once. A box and a triangle meet
// if they do along the box's axes (its bounds), across the triangle's plane, and in the three
// projections along an axis. Exact where double arithmetic is, as for small multiples of a power
// of two.
#pragma once

#include <cmath>

#include "vdb/grid_entry.h"

namespace fl::vdb {

// An edge of the triangle in a projection to axes (a, b): the square from (x, y) to (x + 1, y + 1)
// meets its inner side where a x + b y + c >= 0.
struct EdgeSide {
  double a, b, c;

  FL_HD bool meets(double x, double y) const { return a * x + b * y + c >= 0; }
};

struct TriangleBoxes {
  int64_t low[3], high[3];  // voxels within the bounds, inclusive
  double normal[3], nearest, farthest;
  EdgeSide edges[3][3];  // [axis projected along][edge]
  int along;             // the axis nearest to the normal

  FL_HD bool empty() const { return low[0] > high[0] || low[1] > high[1] || low[2] > high[2]; }

  FL_HD bool projections_meet(int axis, const int64_t v[3]) const {
    const double x = static_cast<double>(v[(axis + 1) % 3]);
    const double y = static_cast<double>(v[(axis + 2) % 3]);
    return edges[axis][0].meets(x, y) && edges[axis][1].meets(x, y) && edges[axis][2].meets(x, y);
  }

  FL_HD bool planes_meet(const int64_t v[3]) const {
    const double at = normal[0] * static_cast<double>(v[0]) +
                      normal[1] * static_cast<double>(v[1]) + normal[2] * static_cast<double>(v[2]);
    return at + farthest >= 0 && at + nearest <= 0;
  }
};

FL_HD double larger(double a, double b) { return a > b ? a : b; }
FL_HD double smaller(double a, double b) { return a < b ? a : b; }

// Of a number that may be far outside.
FL_HD int64_t clamped(double x, int64_t low, int64_t high) {
  if (!(x > static_cast<double>(low))) return low;
  return x < static_cast<double>(high) ? static_cast<int64_t>(x) : high;
}

// v: the corners, in voxels.
FL_HD TriangleBoxes triangle_boxes(const double* v, const int resolution[3]) {
  TriangleBoxes t;
  double edge[3][3];
  for (int i = 0; i < 3; ++i)
    for (int d = 0; d < 3; ++d) edge[i][d] = v[3 * ((i + 1) % 3) + d] - v[3 * i + d];
  t.nearest = t.farthest = 0;
  t.along = 0;
  for (int d = 0; d < 3; ++d) {
    const int a = (d + 1) % 3, b = (d + 2) % 3;
    const double least = smaller(v[d], smaller(v[3 + d], v[6 + d]));
    const double most = larger(v[d], larger(v[3 + d], v[6 + d]));
    // Past the end of the grid where there is nothing, so that low > high.
    t.low[d] = clamped(std::ceil(least) - 1, 0, resolution[d]);
    t.high[d] = most < 0 ? -1 : clamped(std::floor(most), -1, resolution[d] - 1);
    t.normal[d] = edge[0][a] * edge[1][b] - edge[0][b] * edge[1][a];
    t.nearest += smaller(t.normal[d], 0) - t.normal[d] * v[d];
    t.farthest += larger(t.normal[d], 0) - t.normal[d] * v[d];
    if (std::fabs(t.normal[d]) > std::fabs(t.normal[t.along])) t.along = d;
    const double sign = t.normal[d] >= 0 ? 1 : -1;
    for (int i = 0; i < 3; ++i) {
      const double x = -edge[i][b] * sign, y = edge[i][a] * sign;
      t.edges[d][i] = {x, y, larger(x, 0) + larger(y, 0) - (x * v[3 * i + a] + y * v[3 * i + b])};
    }
  }
  return t;
}

// visit(x, y, z) for each voxel that the triangle meets: columns along `along`, of which only what
// is near the plane is looked at.
template <typename Visit>
FL_HD void for_voxels(const TriangleBoxes& t, const Visit& visit) {
  if (t.empty()) return;
  const int w = t.along, a = (w + 1) % 3, b = (w + 2) % 3;
  int64_t at[3];
  for (at[a] = t.low[a]; at[a] <= t.high[a]; ++at[a])
    for (at[b] = t.low[b]; at[b] <= t.high[b]; ++at[b]) {
      if (!t.projections_meet(w, at)) continue;
      int64_t first = t.low[w], last = t.high[w];
      if (t.normal[w] != 0) {
        const double rest =
            t.normal[a] * static_cast<double>(at[a]) + t.normal[b] * static_cast<double>(at[b]);
        const double one = -(rest + t.nearest) / t.normal[w];
        const double two = -(rest + t.farthest) / t.normal[w];
        first = clamped(std::floor(smaller(one, two)) - 1, t.low[w], t.high[w]);
        last = clamped(std::ceil(larger(one, two)) + 1, t.low[w], t.high[w]);
      }
      for (at[w] = first; at[w] <= last; ++at[w])
        if (t.planes_meet(at) && t.projections_meet(a, at) && t.projections_meet(b, at))
          visit(at[0], at[1], at[2]);
    }
}

struct TriangleArgs {
  const double* triangles;  // [n, 3, 3]
  int64_t n;
  int resolution[3];

  FL_HD int64_t count(int64_t i) const {
    int64_t found = 0;
    for_voxels(triangle_boxes(triangles + 9 * i, resolution),
               [&](int64_t, int64_t, int64_t) { ++found; });
    return found;
  }

  FL_HD void write(int64_t i, int32_t* rows) const {
    for_voxels(triangle_boxes(triangles + 9 * i, resolution), [&](int64_t x, int64_t y, int64_t z) {
      rows[0] = static_cast<int32_t>(x);
      rows[1] = static_cast<int32_t>(y);
      rows[2] = static_cast<int32_t>(z);
      rows += 3;
    });
  }
};

}  // namespace fl::vdb
