// SPDX-License-Identifier: Apache-2.0
//
// Sums and products along rays, and the gradient of products.
#pragma once

#include "volume/rays.h"

namespace fl::volume {

template <typename State, typename T>
struct ScanWork {
  const T* inputs;
  T* outputs;
  bool exclusive, reverse;

  template <typename Walk>
  FL_D void run(int64_t, Run run) const {
    Walk::template scan<State>(
        run, reverse, [&](int64_t i) { return State{{inputs[i]}}; },
        [&](int64_t i, const State& before, const State& here) {
          outputs[i] = exclusive ? before.v[0] : before.then(here).v[0];
        });
  }
};

// With P_j the product before x_j, the gradient of x_j is P_j R_j, where R_j sums the gradients of
// the products that hold x_j, each times the factors between: a recurrence from the ray's end,
//     inclusive  R_j = g_j + x_{j+1} R_{j+1}        exclusive  R_j = g_{j+1} + x_{j+1} R_{j+1}
// Nothing is divided by x, which may be zero.
template <typename T>
struct ProductBackwardWork {
  const T *inputs, *g_outputs;
  T* g_inputs;
  bool exclusive;

  template <typename Walk>
  FL_D void run(int64_t, Run run) const {
    using State = Product<T>;
    Walk::template scan<State>(
        run, false, [&](int64_t i) { return State{{inputs[i]}}; },
        [&](int64_t i, const State& before, const State&) { g_inputs[i] = before.v[0]; });
    Walk::settle();
    Walk::template scan<Affine<T>>(
        run, true,
        [&](int64_t i) {
          const T x = inputs[i], g = g_outputs[i];
          return Affine<T>{{x, exclusive ? g : x * g}};
        },
        [&](int64_t i, const Affine<T>& after, const Affine<T>&) {
          g_inputs[i] *= exclusive ? after.v[1] : g_outputs[i] + after.v[1];
        });
  }
};

}  // namespace fl::volume
