// SPDX-License-Identifier: Apache-2.0
//
// One fragment: what one Gaussian does to one pixel, front to back.
//
//   sigma = (A dx^2 + C dy^2) / 2 + B dx dy         d = pixel centre - mean
//   alpha = min(cap, opacity exp(-sigma))           skipped where sigma < 0 or alpha < 1/255
//   colour += T alpha c;  T *= 1 - alpha            stops before T would fall to 1e-4
//
// Backward, also front to back: with v the gradient of the pixel's colour and
//   rest_i = sum over later fragments of T_j alpha_j (c_j . v) - T_end (v_alpha - background . v)
// the gradient of alpha_i is T_i (c_i . v) - rest_i / (1 - alpha_i). Replaying forward makes every
// decision exactly as the forward pass did and needs one number a pixel, not the colour behind.
//
// Everything is templated on the value V: a scalar, or a SIMD vector of pixels in one row.
#pragma once

#include "core/math.h"
#include "splat/project.h"

namespace fl {

constexpr double kTransmittanceStop = 1e-4;

template <typename V, typename S>
FL_HD V fragment_sigma(S A, S B, S C, V dx, S dy) {
  return S(0.5) * A * dx * dx + (B * dx + S(0.5) * C * dy) * dy;
}

template <typename T>
struct Fragment {
  T alpha, next;  // capped alpha; transmittance behind the fragment
  bool capped;
};

enum class Step { skip, blend, stop };

constexpr double kLog2E = 1.4426950408889634;

// A conic scaled once a splat, so that alpha = opacity 2^(a dx^2 + b dx dy + c dy^2).
template <typename T>
struct Footprint {
  T a, b, c, opacity;
};

template <typename T>
FL_HD Footprint<T> footprint(T A, T B, T C, T opacity) {
  return {T(-0.5 * kLog2E) * A, T(-kLog2E) * B, T(-0.5 * kLog2E) * C, opacity};
}

// What a splat does to a pixel at offset (dx, dy) that still lets `transmittance` through.
template <typename T>
FL_HD Step evaluate_fragment(const Footprint<T>& s, T dx, T dy, T alpha_cap, T transmittance,
                             Fragment<T>& f) {
  const T power = (s.a * dx + s.b * dy) * dx + s.c * dy * dy;  // -sigma log2(e)
  const T raw = s.opacity * std::exp2(power);
  f.alpha = minimum(alpha_cap, raw);
  if (!(power <= T(0)) || !(f.alpha >= T(kAlphaThreshold))) return Step::skip;
  f.capped = raw > alpha_cap;
  f.next = transmittance * (T(1) - f.alpha);
  return f.next <= T(kTransmittanceStop) ? Step::stop : Step::blend;
}

// Smallest sigma over the box of offsets [x_low, x_high] x [y_low, y_high]: at the nearest point
// of the nearer edges, or 0 where the box holds the mean. A box the splat cannot reach is skipped.
template <typename T>
FL_HD T smallest_sigma(T A, T B, T C, T x_low, T x_high, T y_low, T y_high) {
  const T dx = maximum(x_low, minimum(x_high, T(0))), dy = maximum(y_low, minimum(y_high, T(0)));
  if (dx == T(0) && dy == T(0)) return T(0);
  const T on_x = minimum(y_high, maximum(y_low, -B * dx / C));
  const T on_y = minimum(x_high, maximum(x_low, -B * dy / A));
  const T at_x = fragment_sigma<T, T>(A, B, C, dx, on_x);
  const T at_y = fragment_sigma<T, T>(A, B, C, on_y, dy);
  return dx == T(0) ? at_y : dy == T(0) ? at_x : minimum(at_x, at_y);
}

// Gradients of A, B, C, mean and opacity from the sums over a splat's fragments of g = d loss /
// d sigma and its moments: sums of g, g dx, g dy, g dx^2, g dx dy, g dy^2.
template <typename S>
struct Moments {
  S one, x, y, xx, xy, yy;
};

template <typename S>
FL_HD Vec2<S> mean_gradient(const Moments<S>& m, S A, S B, S C) {
  return {-(A * m.x + B * m.y), -(B * m.x + C * m.y)};
}

template <typename S>
FL_HD Vec3<S> conic_gradient(const Moments<S>& m) {
  return {S(0.5) * m.xx, m.xy, S(0.5) * m.yy};
}

// d sigma carries -alpha d alpha, and d alpha = (alpha / opacity) d opacity.
template <typename S>
FL_HD S opacity_gradient(const Moments<S>& m, S opacity) {
  return -m.one / opacity;
}

}  // namespace fl
