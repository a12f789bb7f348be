// SPDX-License-Identifier: Apache-2.0
//
// Which tiles a splat can be seen in. The rectangle of its radii is a first bound; where its conic
// and opacity are known, the exact ellipse {d : 2 sigma(d) <= 2 ln(255 opacity)} is cut by each
// row of tiles in turn, at the pixel centres of that row: the splat is listed for a tile only if
// it reaches 1/255 somewhere in the tile's rectangle of pixel centres.
#pragma once

#include <cstdint>

#include "core/math.h"
#include "splat/project.h"

namespace fl {

struct TileGrid {
  int tile_size, width, height;  // width and height in tiles
};

struct TileRange {
  int x_begin, x_end, y_begin, y_end;
};

// NaN becomes 0: no integer stands for it.
template <typename T>
FL_HD int clamp_to_int(T value, int high) {
  return !(value > T(0)) ? 0 : value >= T(high) ? high : static_cast<int>(value);
}

template <typename T>
FL_HD TileRange tile_rectangle(T x, T y, int radius_x, int radius_y, const TileGrid& grid) {
  const T size = T(1) / T(grid.tile_size);
  return {clamp_to_int(std::floor((x - radius_x) * size), grid.width),
          clamp_to_int(std::ceil((x + radius_x) * size), grid.width),
          clamp_to_int(std::floor((y - radius_y) * size), grid.height),
          clamp_to_int(std::ceil((y + radius_y) * size), grid.height)};
}

// a b - c d without the cancellation of the plain form (Kahan): conics of long thin splats have
// determinants a million times smaller than their terms.
template <typename T>
FL_HD T difference_of_products(T a, T b, T c, T d) {
  const T product = c * d;
  return std::fma(a, b, -product) + std::fma(-c, d, product);
}

// The ellipse of a splat, ready to be cut by rows. Slightly enlarged: listing a tile in vain is
// harmless, missing one is not.
template <typename T>
struct Ellipse {
  T x, y, inverse_A, B, det, level_A;  // level_A = level * A
  T tip;                               // dy of the rightmost point is -tip
};

// Largest sigma at which a splat still reaches alpha 1/255.
template <typename T>
FL_HD T max_sigma(T opacity) {
  return std::log(opacity / T(kAlphaThreshold));
}

template <typename T>
FL_HD Ellipse<T> make_ellipse(T x, T y, T A, T B, T C, T opacity) {
  const T level = T(2) * max_sigma(opacity) * T(1.0005) + T(0.0005);
  Ellipse<T> e;
  e.x = x;
  e.y = y;
  e.inverse_A = T(1) / A;
  e.B = B;
  e.det = difference_of_products(A, C, B, B);
  e.level_A = level * A;
  e.tip = B * std::sqrt(level / (C * e.det));
  return e;
}

struct Span {
  int begin, end;
};

// Tiles of row `tile_y` that the ellipse reaches, within [x_begin, x_end).
template <typename T>
FL_HD Span row_span(const Ellipse<T>& e, int tile_y, const TileRange& bounds,
                    const TileGrid& grid) {
  const T size = T(grid.tile_size);
  const T low = T(tile_y) * size + T(0.5) - e.y, high = low + size - T(1);
  // The rectangle bounds the rows, but rounds outwards: a row may lie beyond the ellipse.
  const T nearest = low > T(0) ? low : high < T(0) ? high : T(0);
  if (e.level_A - e.det * nearest * nearest < T(0)) return {0, 0};
  const T y_right = minimum(high, maximum(low, -e.tip)),
          y_left = minimum(high, maximum(low, e.tip));
  const T half_right = std::sqrt(maximum(T(0), e.level_A - e.det * y_right * y_right));
  const T half_left = std::sqrt(maximum(T(0), e.level_A - e.det * y_left * y_left));
  const T right = e.x + (half_right - e.B * y_right) * e.inverse_A;
  const T left = e.x - (half_left + e.B * y_left) * e.inverse_A;
  // Tile t has pixel centres from t size + 0.5 to (t + 1) size - 0.5.
  const T inverse = T(1) / size;
  const int begin = clamp_to_int(std::ceil((left + T(0.5)) * inverse) - T(1), bounds.x_end);
  const int end = clamp_to_int(std::floor((right - T(0.5)) * inverse) + T(1), bounds.x_end);
  return {begin > bounds.x_begin ? begin : bounds.x_begin, end};
}

// A float's bits as an unsigned key of the same order.
FL_HD uint32_t depth_key(uint32_t bits) { return bits & 0x80000000u ? ~bits : bits | 0x80000000u; }

}  // namespace fl
