// SPDX-License-Identifier: Apache-2.0
//
// One element's Adam step (Kingma & Ba 2015), in the order of operations of torch.optim.Adam.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace fl::training {

template <typename T>
struct AdamStep {
  T one_minus_beta1, beta2, one_minus_beta2;
  T rate;       // learning rate / (1 - beta1^step)
  T root_bias;  // sqrt(1 - beta2^step)
  T eps;
};

template <typename T>
FL_HD void adam_element(const AdamStep<T>& s, T gradient, T& parameter, T& average, T& square) {
  const T m = average + s.one_minus_beta1 * (gradient - average);
  const T v = s.beta2 * square + s.one_minus_beta2 * gradient * gradient;
  average = m;
  square = v;
  parameter -= s.rate * (m / (std::sqrt(v) / s.root_bias + s.eps));
}

}  // namespace fl::training
