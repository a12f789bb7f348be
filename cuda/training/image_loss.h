// SPDX-License-Identifier: Apache-2.0
//
// The maths of the image loss: structural similarity (Wang et al. 2004) under an 11 x 11 Gaussian
// window of sigma 1.5, for values in [0, 1], and its derivative.
//
// With G* the window average, the similarity at one pixel is a function of four averages,
//   mean_x = G*x, mean_y = G*y, energy = G*(x^2 + y^2), error = G*(x - y)^2:
//
//          2 mean_x mean_y + c1     2 cov + c2             d^2           error - d^2
//   SSIM = --------------------- * ------------- = (1 - -------) * (1 - ---------------)
//          mean_x^2 + mean_y^2 + c1  var + c2              a                  b
//
//   d = mean_x - mean_y,  a = mean_x^2 + mean_y^2 + c1,  b = energy - mean_x^2 - mean_y^2 + c2.
//
// The right form has one average less than the usual left one, gives 1 exactly for equal images,
// and keeps its precision where they are nearly so. The derivative of the sum of all similarities
// by the image is
//   dx = G*(d_mean) + 2 x G*(d_energy) + 2 (x - y) G*(d_error).
#pragma once

#include "core/macros.h"

namespace fl::training {

constexpr int kWindowRadius = 5;
constexpr int kWindow = 2 * kWindowRadius + 1;

// exp(-k^2 / (2 * 1.5^2)) for k = -5 .. 5, over their sum.
#define FL_SSIM_WINDOW                                                                  \
  {0.00102838008447911, 0.007598758135239185, 0.03600077212843083, 0.10936068950970002, \
   0.2130055377112537,  0.26601172486179436,  0.2130055377112537,  0.10936068950970002, \
   0.03600077212843083, 0.007598758135239185, 0.00102838008447911}

constexpr int kAverages = 4;

template <typename V>
struct Similarity {
  V value, d_mean, d_energy, d_error;
};

// S is the scalar; V is the scalar or a vector of it.
template <typename S, typename V>
FL_HD Similarity<V> similarity(V mean_x, V mean_y, V energy, V error) {
  const V d = mean_x - mean_y, dd = d * d;
  const V squares = mean_x * mean_x + mean_y * mean_y;
  const V a = squares + S(0.01 * 0.01);
  const V b = energy - squares + S(0.03 * 0.03);
  const V inverse = S(1) / (a * b);
  const V inverse_a = b * inverse, inverse_b = a * inverse;
  const V far = dd * inverse_a, unlike = (error - dd) * inverse_b;
  const V luminance = S(1) - far, structure = S(1) - unlike;
  const V d_error = -luminance * inverse_b;
  const V d_energy = -unlike * d_error;
  const V d_mean =
      S(2) * (structure * inverse_a * (mean_x * far - d) - d_error * (d - mean_x * unlike));
  return {luminance * structure, d_mean, d_energy, d_error};
}

}  // namespace fl::training
