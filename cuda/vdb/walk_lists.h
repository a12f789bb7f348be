// SPDX-License-Identifier: Apache-2.0
//
// What a ray meets, one record after the other: the samples of NerfAcc's `traverse_grids`, with all
// that it lets its callers ask for; and occupied segments or voxels, for users, in index space.
#pragma once

#include "vdb/walk_runs.h"

namespace fl::vdb {

// A piece of a ray. `what` is the voxel, or whether the piece shares its left end with the one
// before it (x).
struct Piece {
  float begin, end;
  Voxel what;
};

constexpr float kStuck = 2.0e38f;

// Where rays cross the boxes, when the caller knows better: NerfAcc's t_sorted, t_indices, hits.
struct GivenCrossings {
  const float* times;      // [n, 2 * levels]
  const int64_t* indices;  // [n, 2 * levels]
  const uint8_t* hits;     // [n, levels]
};

template <typename F>
FL_HD void for_given_stretches(const GivenCrossings& g, int64_t ray, int levels, float near,
                               float far, const F& f) {
  const float* times = g.times + ray * 2 * levels;
  const int64_t* what = g.indices + ray * 2 * levels;
  const uint8_t* hits = g.hits + ray * levels;
  const auto known = [&](int64_t w)
                         FL_INLINE { return w >= 0 && w < 2 * levels && hits[w % levels] != 0; };
  for (int i = 0; i + 1 < 2 * levels; ++i) {
    if (!known(what[i])) continue;
    if (what[i] >= levels && !known(what[i + 1])) continue;
    Stretch s;
    if (stretch_between(times[i], what[i], times[i + 1], what[i + 1], levels, near, far, s) &&
        s.enter > -kFarAway && s.leave < kFarAway && !f(s))
      return;
  }
}

struct TraverseArgs {
  WalkGrid grid;
  GivenCrossings given;  // times null: computed
  const uint8_t* mask;   // [n] or null: which rays to walk
  RaySampling sampling;  // a step of 0: a sample for each voxel
  int64_t most;          // samples of a ray; 0: no limit
};

// One ray of `traverse_grids`. `t` is where its last step ended.
template <typename Sink>
struct TraverseVisitor {
  static constexpr bool kEveryCell = true, kFullLeaves = false;

  RaySampling sampling;
  int64_t most;
  Sink* sink;
  float t;
  bool inside;
  int64_t found;

  FL_HD bool enough() const { return most > 0 && found >= most; }
  FL_HD float step_at(float at) const {
    return bounded(rounded_mul(at, sampling.cone_angle), sampling.step, 1e10f);
  }
  FL_HD bool begin(float time, float ended) {
    if (enough()) return false;
    if (inside && !(time > ended)) return true;
    return empty(time);
  }
  FL_HD bool empty(float exit) {
    inside = false;
    t = sampling.step > 0.0f ? march(t, step_at(t), exit) : exit;
    return true;
  }
  FL_HD bool push(float next) {
    if (!sink->push(Piece{t, next, {inside ? 1 : 0, 0, 0}})) return false;
    inside = true;
    t = next;
    ++found;
    return true;
  }
  FL_HD bool occupied(float exit) {
    if (!(sampling.step > 0.0f)) return !(exit > t) || (push(exit) && !enough());
    while (!enough()) {
      const float dt = step_at(t);
      if (!(rounded_add(t, rounded_mul(dt, 0.5f)) < exit)) return true;
      const float next = rounded_add(t, dt);
      if (next == t) {
        t = 3.0e38f;
        return true;
      }
      if (!push(next)) return false;
    }
    return false;
  }
  FL_HD bool finish() { return true; }
};

// Returns where the ray's last step ended.
template <typename Sink>
FL_HD float traverse_ray(const TraverseArgs& a, const Ray& ray, int64_t i, Sink& sink) {
  TraverseVisitor<Sink> visitor{a.sampling, a.most, &sink, ray.near, false, 0};
  if (a.mask != nullptr && a.mask[i] == 0) return ray.near;
  const WalkGrid& grid = a.grid;
  float ended = ray.near;
  const auto visit = [&](const Stretch& s) FL_INLINE {
    if (!visitor.begin(s.enter, ended)) return false;
    ended = s.leave;
    const Walk<AxisOfSteps> walk =
        walk_of_steps(ray, grid.boxes + 6 * s.level, grid.masks.resolution, s.enter, s.leave);
    walk_dense(grid.cells + s.level * grid.cells_per_level(), grid.masks.resolution, walk, visitor);
    return true;
  };
  if (a.given.times != nullptr)
    for_given_stretches(a.given, i, grid.masks.levels, ray.near, ray.far, visit);
  else
    for_stretches(ray, grid.boxes, grid.masks.levels, visit);
  return visitor.t > kStuck ? bits_float(0x7f800000u) : visitor.t;
}

// Occupied voxels as they are crossed, or, joined, occupied segments. Pieces have a length.
template <bool kVoxels, typename Sink>
struct PieceVisitor {
  static constexpr bool kEveryCell = false, kFullLeaves = !kVoxels;

  const Walk<AxisInIndexSpace>* walk;
  Sink* sink;
  float until;    // where the last region ended
  float entered;  // where the open segment began
  bool inside, more;

  FL_HD bool occupied(float exit) {
    if (kVoxels) {
      if (exit > until) more = sink->push(Piece{until, exit, voxel_of(*walk)});
    } else if (!inside) {
      inside = true;
      entered = until;
    }
    until = greater(until, exit);
    return more;
  }
  FL_HD bool empty(float exit) {
    finish();
    until = greater(until, exit);
    return more;
  }
  FL_HD void finish() {
    if (inside && until > entered) more = sink->push(Piece{entered, until, {0, 0, 0}});
    inside = false;
  }
};

struct PieceArgs {
  Masks masks;  // of one level
  bool voxels;
};

template <bool kVoxels, typename Sink>
FL_HD void pieces_of_ray(const PieceArgs& a, const Ray& ray, Sink& sink) {
  float box[6], enter, leave;
  for (int k = 0; k < 3; ++k) {
    box[k] = 0.0f;
    box[3 + k] = static_cast<float>(a.masks.resolution[k]);
  }
  if (!intersect(ray, box, enter, leave)) return;
  enter = greater(enter, ray.near);
  leave = lesser(leave, ray.far);
  if (!(enter < leave)) return;
  Walk<AxisInIndexSpace> walk = walk_in_index_space(ray, a.masks.resolution, enter, leave);
  PieceVisitor<kVoxels, Sink> visitor{&walk, &sink, enter, enter, false, true};
  walk_masks(a.masks, 0, walk, visitor);
  visitor.finish();
}

}  // namespace fl::vdb
