// SPDX-License-Identifier: Apache-2.0
//
// Sums of weighted values along rays: out[ray, d] = sum_i w_i v[i, d].
#pragma once

#include "volume/rays.h"

namespace fl::volume {

// Channels summed in one pass over a ray.
constexpr int kChannelsAtOnce = 4;

template <typename T>
struct AccumulateWork {
  const T *weights, *values;  // [n_samples], [n_samples, channels]; values null: one channel of 1
  T* outputs;                 // [n_rays, channels]
  int64_t channels;

  FL_HD Sums<T, kChannelsAtOnce> product(int64_t i, int64_t first, int count) const {
    Sums<T, kChannelsAtOnce> s;
    for (int k = 0; k < kChannelsAtOnce; ++k)
      s.v[k] = k < count
                   ? weights[i] * (values != nullptr ? values[i * channels + first + k] : T(1))
                   : T(0);
    return s;
  }

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    for (int64_t first = 0; first < channels; first += kChannelsAtOnce) {
      const int count =
          static_cast<int>(channels - first < kChannelsAtOnce ? channels - first : kChannelsAtOnce);
      const auto total = Walk::template sum<Sums<T, kChannelsAtOnce>>(
          run, [&](int64_t i) { return product(i, first, count); });
      if (Walk::leads())
        for (int k = 0; k < count; ++k) outputs[ray * channels + first + k] = total.v[k];
    }
  }
};

template <typename T>
struct AccumulateBackwardWork {
  const T *weights, *values, *g_outputs;
  T *g_weights, *g_values;  // null: not asked for
  int64_t channels;

  FL_HD void one(int64_t i, const T* g) const {
    T sum = T(0);
    for (int64_t d = 0; d < channels; ++d) {
      sum += g[d] * (values != nullptr ? values[i * channels + d] : T(1));
      if (g_values != nullptr) g_values[i * channels + d] = g[d] * weights[i];
    }
    if (g_weights != nullptr) g_weights[i] = sum;
  }

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    Walk::each(run.count(), [&](int64_t k) { one(run.begin + k, g_outputs + ray * channels); });
  }
};

}  // namespace fl::volume
