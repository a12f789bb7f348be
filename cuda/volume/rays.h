// SPDX-License-Identifier: Apache-2.0
//
// Samples along rays, and the few patterns in which all operators of this folder walk them.
//
//   packed    samples of all rays in one run; a row (start, count) of packed_info a ray
//   batched   as many samples a ray, one after the other
//
// An operator is a Work: a struct of pointers whose `operator()<Walk>(ray, run)` does one ray. The
// Walk is how the samples of a ray are visited: in turn by one thread (SerialWalk, here), or by a
// warp together (WarpWalk in schedule_cuda.h). The maths between is the same text for both.
#pragma once

#include <cmath>

#include "core/portable.h"

namespace fl::volume {

// The samples [begin, end) of one ray.
struct Run {
  int64_t begin, end;

  FL_HD int64_t count() const { return end - begin; }
};

struct Rays {
  const int64_t* packed;  // [n_rays, 2], or null: batched
  int64_t n_rays, width;  // width: samples a ray when batched
  int64_t total;          // samples in all

  // Never outside the samples, whatever packed_info says.
  FL_HD Run run(int64_t ray) const {
    if (packed == nullptr) return {ray * width, (ray + 1) * width};
    int64_t begin = packed[2 * ray], count = packed[2 * ray + 1];
    begin = begin < 0 ? 0 : (begin > total ? total : begin);
    count = count < 0 ? 0 : (count > total - begin ? total - begin : count);
    return {begin, begin + count};
  }
};

// What a scan carries along a ray. `then` continues what came before with what comes next.

template <typename T, int N>
struct Sums {
  static constexpr int kWords = N;
  T v[N];

  static FL_HD Sums none() {
    Sums s;
    for (int k = 0; k < N; ++k) s.v[k] = T(0);
    return s;
  }
  FL_HD Sums then(const Sums& next) const {
    Sums s;
    for (int k = 0; k < N; ++k) s.v[k] = v[k] + next.v[k];
    return s;
  }
};

template <typename T>
struct Product {
  static constexpr int kWords = 1;
  T v[1];

  static FL_HD Product none() { return {{T(1)}}; }
  FL_HD Product then(const Product& next) const { return {{v[0] * next.v[0]}}; }
};

// The function x -> v[0] x + v[1]; a chain of them from 0 solves a linear recurrence, whose value
// is v[1].
template <typename T>
struct Affine {
  static constexpr int kWords = 2;
  T v[2];

  static FL_HD Affine none() { return {{T(1), T(0)}}; }
  FL_HD Affine then(const Affine& next) const {
    return {{next.v[0] * v[0], next.v[0] * v[1] + next.v[1]}};
  }
};

struct SerialWalk {
  // store(i, before, here) for each sample, in order or in reverse, where here = load(i) and
  // `before` is all that came before it.
  template <typename State, typename Load, typename Store>
  static FL_D void scan(Run run, bool reverse, const Load& load, const Store& store) {
    State before = State::none();
    for (int64_t k = 0; k < run.count(); ++k) {
      const int64_t i = reverse ? run.end - 1 - k : run.begin + k;
      const State here = load(i);
      store(i, before, here);
      before = before.then(here);
    }
  }

  template <typename State, typename Load>
  static FL_D State sum(Run run, const Load& load) {
    State total = State::none();
    for (int64_t i = run.begin; i < run.end; ++i) total = total.then(load(i));
    return total;
  }

  // f(k) for k in [0, count).
  template <typename F>
  static FL_D void each(int64_t count, const F& f) {
    for (int64_t k = 0; k < count; ++k) f(k);
  }

  // What all threads of the ray add up.
  template <typename T>
  static FL_D T add(T own) {
    return own;
  }

  static FL_D bool leads() { return true; }  // whether this thread writes what is one a ray
  static FL_D void settle() {}               // what was stored before is read after it
};

}  // namespace fl::volume
