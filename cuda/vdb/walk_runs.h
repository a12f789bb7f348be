// SPDX-License-Identifier: Apache-2.0
//
// Samples along a ray, as NerfAcc places them. Sample k reaches from t_k to t_k + dt; it counts
// where its middle lies in an occupied cell. t starts at the near plane and is never reset.
//
// A constant dt (no cone) makes t_k one sequence of float32 sums for each near plane, whatever the
// grid: the cells only choose from it. An occupied part of the ray, from the exit of the last empty
// cell before it to its own exit, is then two searches in that sequence, and its samples are a few
// `Run`s, at most one for each power of two. A dt that grows with t (a cone) is frozen while an
// empty cell is crossed, so that each t depends on the cells before: those samples come one by one.
#pragma once

#include "vdb/walk.h"
#include "vdb/walk_flat.h"

namespace fl::vdb {

// Samples that follow each other: t_start = start + j * inc, t_end = t_start + dt, both exact.
struct Run {
  float start, inc, dt;
  int count;
};

// A step that no longer moves t ends the ray: from there on t is infinite.
FL_HD Progression steps_from(float t, float dt) {
  if (rounded_add(t, dt) == t) return {3.0e38f, 0.0f, 0.0f, 0};
  return progression_from(t, dt);
}

FL_HD bool is_stuck(const Progression& p) { return p.base > 2.0e38f; }

// t_0, t_1, ... of a constant step, as progressions; `After` gives the one that follows another.
template <typename After>
struct Steps {
  Progression part;
  int j;
  float dt, half;
  After after;

  FL_HD float now() const { return part.at(j); }

  FL_HD bool before(int i, float time) const { return rounded_add(part.at(i), half) < time; }

  // The first of the part, from j on, whose middle is not before `time`; last + 1 if there is none.
  FL_HD int find(float time) const {
    const float steps = (time - half - part.base) * part.inv_inc + 1.0f;
    int i = static_cast<int>(bounded(steps, static_cast<float>(j), static_cast<float>(part.last)));
    while (i > j && !before(i - 1, time)) --i;
    while (i <= part.last && before(i, time)) ++i;
    return i;
  }

  // On to the first sample whose middle is not before `time`.
  FL_HD void seek(float time) {
    while (before(part.last, time)) {
      part = after(part, dt);
      j = 0;
    }
    j = find(time);
  }

  // The same, handing over all samples on the way.
  template <typename Sink>
  FL_HD bool emit(float time, Sink& sink) {
    for (;;) {
      const int i = find(time);
      if (i > j && !sink.push(Run{now(), part.inc, dt, i - j})) return false;
      j = i;
      if (i <= part.last) return true;
      part = after(part, dt);
      j = 0;
    }
  }
};

// The next part, computed.
struct ComputedSteps {
  FL_HD Progression operator()(const Progression& p, float dt) const {
    return steps_from(rounded_add(p.at(p.last), dt), dt);
  }
};

struct RayArgs {
  const float *origins, *directions;  // [n, 3]
  const float *near, *far;            // [n]
  int64_t count;

  FL_HD bool good(int64_t i) const {
    return is_ray(origins + 3 * i, directions + 3 * i, near[i], far[i]);
  }
  FL_HD Ray at(int64_t i) const {
    return make_ray(origins + 3 * i, directions + 3 * i, near[i], far[i]);
  }
};

// What samples are taken of: the same for all rays.
struct RaySampling {
  float step, cone_angle;
};

// A visitor that gathers occupied parts and hands their samples to `sink`, for a constant step.
template <typename StepSource, typename Sink>
struct RunVisitor {
  static constexpr bool kEveryCell = false, kFullLeaves = true;

  Steps<StepSource> steps;
  Sink* sink;
  bool inside;           // an occupied part is open
  float entered, until;  // where it began; where the last cell ended

  // The ray goes on at `time` after `ended`, in the box of another level. Samples that lie between
  // two boxes, by rounding, belong to an occupied part that has samples already.
  FL_HD bool begin(float time, float ended) {
    if (inside) {
      steps.seek(entered);
      if (steps.before(steps.j, until) && !(time > ended)) return true;
      if (!finish()) return false;
    }
    until = time;
    return true;
  }
  FL_HD bool occupied(float exit) {
    if (!inside) entered = until;
    inside = true;
    until = exit;
    return true;
  }
  FL_HD bool empty(float exit) {
    if (inside && !finish()) return false;
    until = exit;
    return true;
  }
  FL_HD bool finish() {
    if (!inside) return true;
    inside = false;
    steps.seek(entered);
    return steps.emit(until, *sink);
  }
};

// The same for warps: occupied parts are kept until there are several, so that the lanes of a warp
// search for samples together, after the walk.
template <typename StepSource, typename Sink>
struct PartVisitorOfWarps {
  static constexpr bool kEveryCell = false, kFullLeaves = true;
  static constexpr int kParts = 4;

  Steps<StepSource> steps;
  Sink* sink;
  bool inside;
  float entered, until;
  int parts;
  float from[kParts], to[kParts];

  FL_HD bool begin(float time, float ended) {
    if (inside) {
      if (!flush()) return false;
      steps.seek(entered);
      if (steps.before(steps.j, until) && !(time > ended)) return true;
      if (!close()) return false;
    }
    until = time;
    return true;
  }
  FL_HD bool occupied(float exit) {
    if (!inside) entered = until;
    inside = true;
    until = exit;
    return true;
  }
  FL_HD bool empty(float exit) {
    if (inside && !close()) return false;
    until = exit;
    return true;
  }
  FL_HD bool close() {
    inside = false;
    from[parts] = entered;
    to[parts] = until;
    return ++parts < kParts || flush();
  }
  FL_HD bool flush() {
    bool more = true;
    for (int k = 0; k < parts && more; ++k) {
      steps.seek(from[k]);
      more = steps.emit(to[k], *sink);
    }
    parts = 0;
    return more;
  }
  FL_HD bool finish() { return (!inside || close()) && flush(); }
};

// t + dt + dt + ... to the first sample whose middle is not before `time`.
FL_HD float march(float t, float dt, float time) {
  const float half = rounded_mul(dt, 0.5f);
  constexpr int kFew = 6;
  for (int i = 0; i < kFew; ++i) {
    if (!(rounded_add(t, half) < time)) return t;
    const float next = rounded_add(t, dt);
    if (next == t) return 3.0e38f;
    t = next;
  }
  Steps<ComputedSteps> steps{steps_from(t, dt), 0, dt, half, {}};
  steps.seek(time);
  return steps.now();
}

// The same for a cone: kEveryCell_ walks as NerfAcc does; without it, dt is frozen over each empty
// region that the masks skip, not over each voxel of it.
template <bool kEveryCell_, typename Sink>
struct ConeVisitor {
  static constexpr bool kEveryCell = kEveryCell_, kFullLeaves = true;

  RaySampling sampling;
  Sink* sink;
  float t;
  bool inside;  // samples were handed over since the last empty cell

  FL_HD float step_at(float at) const {
    return bounded(rounded_mul(at, sampling.cone_angle), sampling.step, 1e10f);
  }
  FL_HD bool begin(float time, float ended) {
    if (inside && !(time > ended)) return true;
    return empty(time);
  }
  FL_HD bool empty(float exit) {
    inside = false;
    t = march(t, step_at(t), exit);
    return true;
  }
  FL_HD bool occupied(float exit) {
    for (;;) {
      const float dt = step_at(t);
      if (!(rounded_add(t, rounded_mul(dt, 0.5f)) < exit)) return true;
      const float next = rounded_add(t, dt);
      if (next == t) {
        t = 3.0e38f;
        return true;
      }
      if (!sink->push(Run{t, 0.0f, dt, 1})) return false;
      inside = true;
      t = next;
    }
  }
  FL_HD bool finish() { return true; }
};

// Grids as the walk sees them; `cells` is null where masks are given.
struct WalkGrid {
  Masks masks;
  const uint8_t* cells;  // [levels, resolution]
  const float* boxes;    // [levels, 6]

  FL_HD int64_t cells_per_level() const {
    return static_cast<int64_t>(masks.resolution[0]) * masks.resolution[1] * masks.resolution[2];
  }
};

// How a grid is walked: a dense table, nested loops over masks (threads), one loop (warps).
enum class Way { dense, nested, flat };

// All stretches of a ray through all levels, with one visitor.
template <Way kWay, typename Visitor>
FL_HD void visit_ray(const WalkGrid& grid, const Ray& ray, Visitor& visitor) {
  float ended = ray.near;
  for_stretches(ray, grid.boxes, grid.masks.levels, [&](const Stretch& s) FL_INLINE {
    if (!visitor.begin(s.enter, ended)) return false;
    ended = s.leave;
    Walk<AxisOfSteps> walk =
        walk_of_steps(ray, grid.boxes + 6 * s.level, grid.masks.resolution, s.enter, s.leave);
    if (kWay == Way::dense)
      walk_dense(grid.cells + s.level * grid.cells_per_level(), grid.masks.resolution, walk,
                 visitor);
    else if (kWay == Way::flat)
      walk_masks_flat(grid.masks, s.level, walk, visitor);
    else
      walk_masks(grid.masks, s.level, walk, visitor);
    return true;
  });
  visitor.finish();
}

}  // namespace fl::vdb
