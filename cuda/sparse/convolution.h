// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a finished sum of a convolution.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace fl::sparse {

// Numbered as conv_ops.py numbers them.
enum class Activation : int { none, relu, leaky_relu, silu, gelu, sigmoid };
constexpr int kActivations = 6;

template <typename T>
FL_HD T sigmoid(T x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

// The normal distribution's own form of GELU, as torch's default.
template <typename T>
FL_HD T gelu(T x) {
  using std::erf;
  return T(0.5) * x * (T(1) + erf(x * T(0.70710678118654752440)));
}

// Not a number stays what it is, as in torch.
template <typename T>
FL_HD T activate(Activation kind, T x, T slope) {
  switch (kind) {
    case Activation::relu:
      return x < T(0) ? T(0) : x;
    case Activation::leaky_relu:
      return x > T(0) ? x : x * slope;
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::sigmoid:
      return sigmoid(x);
    default:
      return x;
  }
}

}  // namespace fl::sparse
