// SPDX-License-Identifier: Apache-2.0
//
// Compositing: from the densities (or alphas) of samples along a ray to how much of each is seen.
//
//     alpha_i = 1 - exp(-sigma_i (t1_i - t0_i))
//     trans_i = prod_{j < i} (1 - alpha_j)          = exp(-sum_{j < i} sigma_j (t1_j - t0_j))
//     weight_i = trans_i alpha_i
//
// One exponential a sample: the transmittance is a running product of exp(-sigma dt).
// Max, Optical models for direct volume rendering (1995).
#pragma once

#include "volume/rays.h"

namespace fl::volume {

// 1 - e where e = exp(-tau), without cancellation where tau is small.
template <typename T>
FL_HD T opacity_of(T tau, T e) {
  if (sizeof(T) == 8) return -static_cast<T>(std::expm1(-tau));
  constexpr float series_below = 0.0625f;
  const T magnitude = tau < T(0) ? -tau : tau;
  if (!(magnitude < T(series_below))) return T(1) - e;
  return tau *
         (T(1) - tau * T(0.5) *
                     (T(1) - tau * T(1.0 / 3) * (T(1) - tau * T(0.25) * (T(1) - tau * T(0.2)))));
}

template <typename T>
struct CompositeArgs {
  const T *t_starts, *t_ends;  // null: values are alphas
  const T* values;             // densities or alphas

  FL_HD bool densities() const { return t_starts != nullptr; }
  FL_HD T tau(int64_t i) const { return values[i] * (t_ends[i] - t_starts[i]); }
  // What a sample lets through.
  FL_HD T through(int64_t i) const {
    return densities() ? static_cast<T>(std::exp(-tau(i))) : T(1) - values[i];
  }
  FL_HD T alpha(int64_t i, T through) const {
    return densities() ? opacity_of(tau(i), through) : values[i];
  }
};

template <typename T>
struct CompositeWork {
  CompositeArgs<T> a;
  T *weights, *trans, *alphas;  // alphas null: not asked for

  template <typename Walk>
  FL_D void run(int64_t, Run run) const {
    using State = Product<T>;
    Walk::template scan<State>(
        run, false, [&](int64_t i) { return State{{a.through(i)}}; },
        [&](int64_t i, const State& before, const State& here) {
          const T alpha = a.alpha(i, here.v[0]);
          trans[i] = before.v[0];
          weights[i] = before.v[0] * alpha;
          if (alphas != nullptr) alphas[i] = alpha;
        });
  }
};

// Which samples are seen through what lies before them, and are not themselves transparent.
template <typename T>
struct VisibilityWork {
  CompositeArgs<T> a;
  const T* prefix;  // transmittance before the first sample, one a sample; or null: 1
  T early_stop_eps, alpha_thre;
  bool* visible;

  template <typename Walk>
  FL_D void run(int64_t, Run run) const {
    using State = Product<T>;
    Walk::template scan<State>(
        run, false, [&](int64_t i) { return State{{a.through(i)}}; },
        [&](int64_t i, const State& before, const State& here) {
          const T trans = prefix != nullptr ? before.v[0] * prefix[i] : before.v[0];
          visible[i] = trans >= early_stop_eps &&
                       (!(alpha_thre > T(0)) || a.alpha(i, here.v[0]) >= alpha_thre);
        });
  }
};

// With G_j the gradient of trans_j, through the weight too:
//     densities   g_tau_i = g_alpha_i exp(-tau_i) - sum_{j > i} G_j trans_j
//     alphas      g_alpha_i - trans_i S_i,  S_i = G_{i+1} + (1 - alpha_{i+1}) S_{i+1}
// where g_alpha_i includes the weight's. The recurrence holds where an alpha is 1.
template <typename T>
struct CompositeBackwardWork {
  CompositeArgs<T> a;
  const T* trans;
  const T *g_weights, *g_trans, *g_alphas;  // null: zero
  T *g_starts, *g_ends, *g_values;          // g_starts, g_ends null for alphas

  FL_HD T or_zero(const T* values, int64_t i) const { return values != nullptr ? values[i] : T(0); }
  FL_HD T of_trans(int64_t i, T alpha) const {
    return or_zero(g_trans, i) + or_zero(g_weights, i) * alpha;
  }
  FL_HD T of_alpha(int64_t i) const {
    return or_zero(g_alphas, i) + or_zero(g_weights, i) * trans[i];
  }

  FL_HD void store_density(int64_t i, T behind) const {
    const T dt = a.t_ends[i] - a.t_starts[i];
    const T g_tau = of_alpha(i) * a.through(i) - behind;
    g_values[i] = g_tau * dt;
    g_ends[i] = g_tau * a.values[i];
    g_starts[i] = -g_tau * a.values[i];
  }

  template <typename Walk>
  FL_D void run(int64_t, Run run) const {
    if (a.densities())
      Walk::template scan<Sums<T, 1>>(
          run, true,
          [&](int64_t i) { return Sums<T, 1>{{of_trans(i, a.alpha(i, a.through(i))) * trans[i]}}; },
          [&](int64_t i, const Sums<T, 1>& behind, const Sums<T, 1>&) {
            store_density(i, behind.v[0]);
          });
    else
      Walk::template scan<Affine<T>>(
          run, true,
          [&](int64_t i) { return Affine<T>{{T(1) - a.values[i], of_trans(i, a.values[i])}}; },
          [&](int64_t i, const Affine<T>& behind, const Affine<T>&) {
            g_values[i] = of_alpha(i) - trans[i] * behind.v[1];
          });
  }
};

}  // namespace fl::volume
