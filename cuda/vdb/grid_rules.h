// SPDX-License-Identifier: Apache-2.0
//
// New grids from old ones. A rule gives the words of the new grid by their place, from the top
// down: of tops and nodes it may claim too much, of leaves it tells the truth. What turns out
// empty is dropped by whoever puts the grid together.
#pragma once

#include "vdb/grid_words.h"

namespace fl::vdb {

enum class SetOperation { unite = 0, intersect = 1, subtract = 2 };

// Two grids of one shape, as sets.
struct Combine {
  GridShape shape;
  Masks a, b;
  SetOperation operation;

  template <Height H>
  FL_HD uint64_t word(const Place& p) const {
    const uint64_t mine = word_at<H>(a, p);
    if (operation == SetOperation::unite) return mine | word_at<H>(b, p);
    if (mine == 0) return 0;
    if (operation == SetOperation::intersect) return mine & word_at<H>(b, p);
    return H == Height::leaf ? mine & ~word_at<H>(b, p) : mine;
  }
};

// Every voxel with an active neighbour, or only those without an inactive one; outside is inactive.
struct Morph {
  GridShape shape;
  Masks m;
  int neighbours;  // 6, 18 or 26
  bool erode;

  template <Height H>
  FL_HD uint64_t around(const Place& p, int dx, int dy, int dz) const {
    constexpr int edge = edge_of(H);
    return word_at<H>(m, {p.level, p.x + dx * edge, p.y + dy * edge, p.z + dz * edge});
  }

  template <Height H>
  FL_HD uint64_t word(const Place& p) const {
    if (erode) {
      const uint64_t own = word_at<H>(m, p);
      if (H != Height::leaf || own == 0) return own;
      return ~dilate_word(neighbours,
                          [&](int dx, int dy, int dz) { return ~around<H>(p, dx, dy, dz); });
    }
    // Above the leaves a diagonal step of a voxel may touch any neighbour.
    const uint64_t grown =
        dilate_word(H == Height::leaf ? neighbours : 26,
                    [&](int dx, int dy, int dz) { return around<H>(p, dx, dy, dz); });
    return grown & inside_word<H>(shape.resolution, p);
  }
};

enum class Resampling { coarsen_any = 0, coarsen_all = 1, refine = 2 };

// A voxel for each factor^3, or factor^3 for each voxel.
struct Resample {
  GridShape shape;
  Masks m;
  int factor;
  Resampling kind;

  // [begin, end) of the old grid under a cube of the new one.
  FL_HD void box_under(const Place& p, int edge, int64_t begin[3], int64_t end[3]) const {
    const int at[3] = {p.x, p.y, p.z};
    for (int d = 0; d < 3; ++d) {
      const int64_t last = int64_t{at[d]} + edge - 1;
      if (kind == Resampling::refine) {
        begin[d] = at[d] / factor;
        end[d] = last / factor + 1;
      } else {
        begin[d] = int64_t{at[d]} * factor;
        end[d] = (last + 1) * factor;
      }
      if (end[d] > m.resolution[d]) end[d] = m.resolution[d];
    }
  }

  template <Height H>
  FL_HD uint64_t word(const Place& p) const {
    constexpr int edge = edge_of(H) / 4;
    uint64_t found = 0;
    for (uint64_t left = inside_word<H>(shape.resolution, p); left != 0; left &= left - 1) {
      const int bit = lowest_bit(left);
      int64_t begin[3], end[3];
      box_under(child_place<H>(p, bit), edge, begin, end);
      const bool all = H == Height::leaf && kind == Resampling::coarsen_all;
      if (all ? all_in_box(m, p.level, begin, end) : any_in_box(m, p.level, begin, end))
        found |= uint64_t{1} << bit;
    }
    return found;
  }
};

}  // namespace fl::vdb
