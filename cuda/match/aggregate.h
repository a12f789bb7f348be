// SPDX-License-Identifier: Apache-2.0
//
// Semi-global aggregation: along a path through the image, a pixel's plane costs what it costs
// there, plus the cheapest way to have come: the same plane for nothing, the next plane for p1,
// any plane for p2. Subtracting the cheapest plane of the pixel before keeps numbers below
// kWorstCost + p2. Eight paths are added up.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fl::match {

constexpr int kPaths = 8;
// Eight paths of at most 255 + kMaxPenalty fit 16 bits.
constexpr int kMaxPenalty = 4000;
constexpr uint16_t kBeyondPlanes = 0x7fff;

struct Penalties {
  int p1, p2;
  float edge;  // a step of this much grey (quarters of a level) halves p2
};

// A change of plane costs less where the image changes too. In double precision, whose division is
// exact to the last bit in device code too: the result is cut to an integer.
FL_HD int edge_penalty(const Penalties& p, int grey_here, int grey_before) {
  const int step = grey_here > grey_before ? grey_here - grey_before : grey_before - grey_here;
  const double edge = static_cast<double>(p.edge);
  const int p2 = static_cast<int>(p.p2 * edge / (edge + step));
  return p2 > p.p1 ? p2 : p.p1;
}

// Paths come in pairs of opposite direction; an axis is their common line. Lines of an axis are
// numbered so that neighbours in number are neighbours in the image.
struct Axis {
  int dx, dy;
};

FL_HD Axis axis_of(int index) {
  return index == 0 ? Axis{1, 0} : index == 1 ? Axis{0, 1} : index == 2 ? Axis{1, 1} : Axis{-1, 1};
}

struct Line {
  int x, y, length;
};

FL_HD int line_count(const Axis& axis, int width, int height) {
  return axis.dy == 0 ? height : (axis.dx == 0 ? width : width + height - 1);
}

// Diagonal lines start in the top row, or on the side that they leave from.
FL_HD Line line_of(const Axis& axis, int index, int width, int height) {
  if (axis.dy == 0) return {0, index, width};
  if (axis.dx == 0) return {index, 0, height};
  const int start = axis.dx > 0 ? index - (height - 1) : index;
  const int side = axis.dx > 0 ? -start : start - (width - 1);
  const int y = side > 0 ? side : 0;
  const int x = axis.dx > 0 ? (start > 0 ? start : 0) : (start < width ? start : width - 1);
  const int across = axis.dx > 0 ? width - x : x + 1;
  return {x, y, across < height - y ? across : height - y};
}

}  // namespace fl::match
