// SPDX-License-Identifier: Apache-2.0
//
// What one pixel of a plane sweep computes: where a plane sends it in a neighbour, what it finds
// there, and how alike the two windows are.
//
// Images are grey, int16, in quarters of a grey level (0 to 1023); a pixel that does not count is
// stored as -1 - value, so that windows across a mask's edge still see what was there. Window sums
// are integers: exact, and the same in any order.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace fl::match {

constexpr int kRadius = 3;
constexpr int kWindow = 2 * kRadius + 1;
constexpr int kWindowPixels = kWindow * kWindow;
// Centre-symmetric census: each pixel of the window's first half against the one opposite.
constexpr int kCensusPairs = kWindowPixels / 2;
constexpr int kMaxNeighbours = 16;
constexpr int kMaxBest = 4;
constexpr int kMaxPlanes = 256;
constexpr int kMaxValue = 1023;

// Costs are 0 (alike) to kWorstCost.
constexpr int kWorstCost = 254;
// Of a neighbour that does not see the pixel: worse than a fair match, better than a clear
// mismatch.
constexpr int kUnseenCost = 170;
// Added to the sums of squared deviations: a window whose standard deviation is one grey level
// counts half, so that noise on a blank wall is no texture.
constexpr float kFlatness = 16.0f * kWindowPixels;
constexpr float kNccShare = 0.6f;
// A point nearer to the neighbour than this part of its depth in the reference is not matched.
constexpr float kNearestRatio = 1e-3f;

constexpr uint32_t kSeenBit = 0x8000u;
constexpr uint32_t kBothSeen = kSeenBit | (kSeenBit << 16);

struct Offset {
  int dx, dy;
};

FL_HD int grey_of(int stored) { return stored < 0 ? -1 - stored : stored; }

FL_HD Offset census_offset(int pair) {
  return {pair % kWindow - kRadius, pair / kWindow - kRadius};
}

// A pixel and its right neighbour in one word, each with whether it counts: sampling reads two
// words. The last column is its own neighbour.
FL_HD uint32_t pack_texel(int here, int right) {
  const auto half = [](int v) {
    return static_cast<uint32_t>(grey_of(v)) | (v < 0 ? 0u : kSeenBit);
  };
  return half(here) | (half(right) << 16);
}

// What the maths below runs on: one pixel, or a vector of them (sweep_simd.cpp has that one). A
// mask is an integer of all ones or none.
struct OnePixel {
  using F = float;
  using I = int;
  static FL_HD F larger(F a, F b) { return a > b ? a : b; }  // b if a is NaN
  static FL_HD F smaller(F a, F b) { return a < b ? a : b; }
  static FL_HD F root(F a) { return std::sqrt(a); }
  static FL_HD I at_least(F a, F b) { return a >= b ? -1 : 0; }
  static FL_HD F real(I a) { return static_cast<float>(a); }
  static FL_HD I whole(F a) { return static_cast<int>(a); }  // towards zero
};

// Homography of a plane at inverse depth w: (columns 0 to 2) p + w (column 3), p homogeneous.
struct Warp {
  float m[12];
};

// What of a warp is the same along a row of pixels: (u, v, s) = base + x step, in u / s, v / s.
struct RowWarp {
  float base[3], step[3];
};

FL_HD RowWarp row_warp(const Warp& warp, float w, int y) {
  RowWarp row{};
  const float py = static_cast<float>(y) + 0.5f;
  for (int k = 0; k < 3; ++k) {
    const float* m = warp.m + 4 * k;
    row.base[k] = m[1] * py + (m[2] + w * m[3]);
    row.step[k] = m[0];
  }
  return row;
}

template <typename L>
struct Landing {
  typename L::I x, y;    // the texel up left
  typename L::F fx, fy;  // and how far on to the next
  typename L::I inside;  // mask
};

template <typename L>
FL_HD Landing<L> land(const RowWarp& row, typename L::F px, int width, int height) {
  using F = typename L::F;
  const F s = row.base[2] + row.step[2] * px;
  const F zero = F{} + 0.0f, right = F{} + static_cast<float>(width),
          bottom = F{} + static_cast<float>(height);
  const F inverse = (F{} + 1.0f) / L::larger(s, F{} + kNearestRatio);
  const F u = (row.base[0] + row.step[0] * px) * inverse;
  const F v = (row.base[1] + row.step[1] * px) * inverse;
  Landing<L> p;
  p.inside = L::at_least(s, F{} + kNearestRatio) & L::at_least(u, zero) & L::at_least(right, u) &
             L::at_least(v, zero) & L::at_least(bottom, v);
  const F x = L::smaller(L::larger(u - 0.5f, zero), right - 1.0f);
  const F y = L::smaller(L::larger(v - 0.5f, zero), bottom - 1.0f);
  p.x = L::whole(x);
  p.y = L::whole(y);
  p.fx = x - L::real(p.x);
  p.fy = y - L::real(p.y);
  return p;
}

// Bilinear, rounded; `top` and `bottom` are packed texels.
template <typename L>
FL_HD typename L::I blend_texels(typename L::I top, typename L::I bottom, typename L::F fx,
                                 typename L::F fy) {
  using F = typename L::F;
  const F a = L::real(top & kMaxValue), b = L::real((top >> 16) & kMaxValue);
  const F c = L::real(bottom & kMaxValue), d = L::real((bottom >> 16) & kMaxValue);
  const F upper = a + fx * (b - a), lower = c + fx * (d - c);
  return L::whole(upper + fy * (lower - upper) + 0.5f);
}

// Nonzero where a pixel's texels do not all count.
template <typename I>
FL_HD I texels_unseen(I top, I bottom) {
  return ((top & bottom) & static_cast<int>(kBothSeen)) ^ static_cast<int>(kBothSeen);
}

// One over the root of a window's sum of squared deviations, from its sums.
template <typename L>
FL_HD typename L::F inverse_deviation(typename L::I sum, typename L::I squares) {
  using F = typename L::F;
  const F s = L::real(sum);
  const F deviation = L::real(squares) - s * s * (1.0f / kWindowPixels);
  return (F{} + 1.0f) / L::root(L::larger(deviation, F{} + 0.0f) + kFlatness);
}

// Cost of a window pair, 0 to kWorstCost, from its sums and the census bits that differ.
template <typename L>
FL_HD typename L::I window_cost(typename L::I sum_i, typename L::F inverse_i, typename L::I sum_j,
                                typename L::I squares_j, typename L::I products,
                                typename L::I differing) {
  using F = typename L::F;
  const F one = F{} + 1.0f, zero = F{} + 0.0f;
  const F covariance = L::real(products) - L::real(sum_i) * L::real(sum_j) * (1.0f / kWindowPixels);
  const F ncc = covariance * inverse_i * inverse_deviation<L>(sum_j, squares_j);
  const F unlike = L::smaller(L::larger(one - ncc, zero), one);
  // Half of the bits differ between unrelated windows.
  const F bits = L::smaller(L::real(differing) * (2.0f / kCensusPairs), one);
  return L::whole((unlike * kNccShare + bits * (1.0f - kNccShare)) * float{kWorstCost} + 0.5f);
}

// Where a coarser volume is read for a finer pixel: two cells and the second one's share of 16.
struct Interpolation {
  int first, second, share;
};

FL_HD Interpolation interpolate(int i, int fine, int coarse) {
  const float at =
      (static_cast<float>(i) + 0.5f) * static_cast<float>(coarse) / static_cast<float>(fine) - 0.5f;
  const float clamped = at < 0.0f ? 0.0f : at;
  int first = static_cast<int>(clamped);
  if (first > coarse - 1) first = coarse - 1;
  const int second = first + 1 < coarse ? first + 1 : first;
  const int share = static_cast<int>((clamped - static_cast<float>(first)) * 16.0f + 0.5f);
  return {first, second, share > 16 ? 16 : share};
}

FL_HD int interpolate_cost(int a, int b, int c, int d, int share_x, int share_y) {
  const int upper = a * (16 - share_x) + b * share_x, lower = c * (16 - share_x) + d * share_x;
  return (upper * (16 - share_y) + lower * share_y + 128) >> 8;
}

FL_HD int blend_costs(int own, int prior, int prior_share) {
  return (own * (256 - prior_share) + prior * prior_share + 128) >> 8;
}

}  // namespace fl::match
