// SPDX-License-Identifier: Apache-2.0
//
// The maths of the image loss: structural similarity (Wang et al. 2004) under an 11 x 11 Gaussian
// window of sigma 1.5, for values in [0, 1], and its derivative.
//
// With G* the window average, the similarity at one pixel is a function of five averages,
//   mean_x = G*x, mean_y = G*y, square_x = G*x^2, square_y = G*y^2, product = G*xy,
// so the derivative of the sum of all similarities by the image is
//   dx = G*(d_mean) + 2 x G*(d_square) + y G*(d_product).
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

template <typename V>
struct Similarity {
  V value, d_mean, d_square, d_product;
};

// S is the scalar; V is the scalar or a vector of it.
template <typename S, typename V>
FL_HD Similarity<V> similarity(V mean_x, V mean_y, V square_x, V square_y, V product) {
  const S c1 = S(0.01 * 0.01), c2 = S(0.03 * 0.03);
  const V xx = mean_x * mean_x, yy = mean_y * mean_y, xy = mean_x * mean_y;
  const V a = xx + yy + c1;
  const V b = (square_x - xx) + (square_y - yy) + c2;
  const V c = S(2) * xy + c1;
  const V d = S(2) * (product - xy) + c2;
  const V inverse = S(1) / (a * b);
  const V value = c * d * inverse;
  const V d_square = -value * a * inverse;
  const V d_product = S(2) * c * inverse;
  const V d_mean = S(2) * inverse * (mean_y * d - mean_x * value * b) - S(2) * mean_x * d_square -
                   mean_y * d_product;
  return {value, d_mean, d_square, d_product};
}

}  // namespace fl::training
