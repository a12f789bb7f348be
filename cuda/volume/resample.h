// SPDX-License-Identifier: Apache-2.0
//
// Inverse transform sampling of piecewise linear CDFs along rays, and searches in sorted runs.
#pragma once

#include "volume/rays.h"

namespace fl::volume {

// The neighbours of a value in a sorted run: v[left] <= value < v[right], within the run.
struct Neighbours {
  int64_t left, right;
};

template <typename T>
FL_HD Neighbours find_neighbours(const T* sorted, Run run, T value) {
  const int64_t last = run.end > run.begin ? run.end - 1 : run.begin;
  int64_t low = run.begin, high = last;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (sorted[middle] > value)
      high = middle;
    else
      low = middle + 1;
  }
  return {low > run.begin ? low - 1 : run.begin, low};
}

template <typename T>
struct SearchWork {
  const T *sorted, *values;
  Rays keys;
  int64_t *left, *right;
  bool relative;  // to the start of the ray's keys

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    const Run key = keys.run(ray);
    const int64_t origin = relative ? key.begin : 0;
    Walk::each(run.count(), [&](int64_t k) {
      const Neighbours found = find_neighbours(sorted, key, values[run.begin + k]);
      left[run.begin + k] = found.left - origin;
      right[run.begin + k] = found.right - origin;
    });
  }
};

template <typename T>
struct ResampleWork {
  const T *edges, *cdfs;  // of the source, ascending along each ray
  const T* bias;          // [n_rays] in [0, 1), where in its stratum a sample lies; null: 0.5
  Rays source, intervals_rays;
  T *samples, *intervals;

  // Sample k of n of a ray: where the CDF reaches the middle of the k-th of n equal parts.
  FL_HD T sample(Run from, int64_t ray, int64_t k, int64_t n) const {
    if (from.count() == 0) return T(0);
    const T low = cdfs[from.begin], high = cdfs[from.end - 1];
    const T place = static_cast<T>(k) + (bias != nullptr ? bias[ray] : T(0.5));
    const T u = low + place * ((high - low) / static_cast<T>(n));
    const Neighbours near = find_neighbours(cdfs, from, u);
    const T rise = cdfs[near.right] - cdfs[near.left];
    const T left = edges[near.left], width = edges[near.right] - left;
    return rise < T(1e-10) ? left + width * T(0.5) : left + (u - cdfs[near.left]) * (width / rise);
  }

  // Edge k of n + 1: half way between samples, and at the ends as far out as inwards.
  FL_HD T edge(Run from, int64_t ray, int64_t k, int64_t n) const {
    if (from.count() == 0) return T(0);
    const T first = edges[from.begin], last = edges[from.end - 1];
    if (n == 1) return k == 0 ? first : last;
    const int64_t inner = k == 0 ? 1 : (k == n ? n - 1 : k);
    const T before = sample(from, ray, inner - 1, n), after = sample(from, ray, inner, n);
    const T half = (after - before) * T(0.5);
    if (k == 0) return before - half > first ? before - half : first;
    if (k == n) return after + half < last ? after + half : last;
    return before + half;
  }

  template <typename Walk>
  FL_D void run(int64_t ray, Run run) const {
    const Run from = source.run(ray), out = intervals_rays.run(ray);
    const int64_t n = run.count();
    Walk::each(n, [&](int64_t k) { samples[run.begin + k] = sample(from, ray, k, n); });
    const int64_t n_edges = n > 0 && out.count() > n ? n + 1 : 0;
    Walk::each(n_edges, [&](int64_t k) { intervals[out.begin + k] = edge(from, ray, k, n); });
  }
};

}  // namespace fl::volume
