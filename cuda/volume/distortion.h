// SPDX-License-Identifier: Apache-2.0
//
// The distortion loss of a ray, in one pass: with middles m ascending along the ray,
//     sum_ij w_i w_j |m_i - m_j| = 2 sum_i w_i (m_i sum_{j<i} w_j - sum_{j<i} w_j m_j)
// plus sum_i w_i^2 (t1_i - t0_i) / 3. Middles count from the ray's first one, so that near samples
// far away do not cancel.
// Barron et al., Mip-NeRF 360 (2022), equation 15; Sun et al., Improved DVGO (2022).
#pragma once

#include "volume/rays.h"

namespace fl::volume {

template <typename T>
struct DistortionArgs {
  const T *weights, *t_starts, *t_ends;

  FL_HD T middle(int64_t i) const { return T(0.5) * (t_starts[i] + t_ends[i]); }
  FL_HD T from_first(int64_t i, Run run) const { return middle(i) - middle(run.begin); }
  FL_HD Sums<T, 2> moments(int64_t i, Run run) const {
    return {{weights[i], weights[i] * from_first(i, run)}};
  }
};

template <typename T>
struct DistortionWork {
  DistortionArgs<T> a;
  T* losses;  // [n_rays]

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    using State = Sums<T, 2>;
    T own = T(0);
    Walk::template scan<State>(
        run, false, [&](int64_t i) { return a.moments(i, run); },
        [&](int64_t i, const State& before, const State& here) {
          const T w = a.weights[i];
          own += w * w * (a.t_ends[i] - a.t_starts[i]) * T(1.0 / 3) +
                 T(2) * (before.v[0] * here.v[1] - w * before.v[1]);
        });
    const T loss = Walk::add(own);
    if (Walk::leads()) losses[ray] = loss;
  }
};

template <typename T>
struct DistortionBackwardWork {
  DistortionArgs<T> a;
  const T* g_losses;
  T *g_weights, *g_starts, *g_ends;

  // `balance`: what lies before the sample minus what lies behind it.
  FL_HD void store(int64_t i, Run run, T g, const Sums<T, 2>& balance) const {
    const T w = a.weights[i], dt = a.t_ends[i] - a.t_starts[i];
    const T apart = from_balance(i, run, balance);
    const T g_middle = g * T(2) * w * balance.v[0], g_dt = g * w * w * T(1.0 / 3);
    g_weights[i] = g * (T(2.0 / 3) * w * dt + T(2) * apart);
    g_starts[i] = T(0.5) * g_middle - g_dt;
    g_ends[i] = T(0.5) * g_middle + g_dt;
  }
  FL_HD T from_balance(int64_t i, Run run, const Sums<T, 2>& balance) const {
    return a.from_first(i, run) * balance.v[0] - balance.v[1];
  }

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    using State = Sums<T, 2>;
    const auto load = [&](int64_t i) { return a.moments(i, run); };
    const State total = Walk::template sum<State>(run, load);
    Walk::template scan<State>(run, false, load,
                               [&](int64_t i, const State& before, const State& here) {
                                 State balance;
                                 for (int k = 0; k < 2; ++k)
                                   balance.v[k] = T(2) * before.v[k] + here.v[k] - total.v[k];
                                 store(i, run, g_losses[ray], balance);
                               });
  }
};

}  // namespace fl::volume
