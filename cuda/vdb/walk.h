// SPDX-License-Identifier: Apache-2.0
//
// How a ray passes through nested masks: from cell to cell, or over whole empty regions of 4^3,
// 16^3 and 64^3 voxels. Needs no torch: kernels of users include it too (fl.cuda_include_dir()).
//
//     AxisInIndexSpace x, y, z;             faces at integers: times (face - origin) / direction
//     Walk<AxisInIndexSpace> walk = ...;    see walk_in_index_space
//     walk_masks(masks, level, walk, visitor);
//
// The walk visits regions in order along the ray. `visitor.empty(exit)` is told of a region without
// voxels, `visitor.occupied(exit)` of a voxel (or, where the visitor allows it, of a full 4^3
// leaf); `exit` is when the ray leaves it, where the next region begins. Either returns false to
// stop.
//
// Cells are walked in mirrored coordinates, so that every step is +1: `cell ^ mirror` is the voxel,
// with mirror = 0 along the axis and 2^30 - 1 against it. Blocks of 4, 16 and 64 stay aligned.
//
// Two kinds of axes say when the ray crosses a face. AxisInIndexSpace computes each time anew from
// the face's integer. AxisOfSteps has the times that NerfAcc's walk has: a first one, and float32
// additions of a constant from there on, whose rounding errors add up. Within a power of two, such
// additions grow by one and the same rounded increment (`Progression`), so that any later time
// takes one multiplication, and comes out the same to the last bit.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "vdb/masks.h"

namespace fl::vdb {

constexpr int kMirror = 0x3fffffff;
constexpr int kMaxLevels = 16;
constexpr float kFarAway = 1e30f;  // times beyond it are none

// Float32 arithmetic that no compiler may contract or approximate.
#if defined(__CUDA_ARCH__)
FL_HD float rounded_add(float a, float b) { return __fadd_rn(a, b); }
FL_HD float rounded_sub(float a, float b) { return __fsub_rn(a, b); }
FL_HD float rounded_mul(float a, float b) { return __fmul_rn(a, b); }
FL_HD float rounded_div(float a, float b) { return __fdiv_rn(a, b); }
FL_HD uint32_t float_bits(float x) { return __float_as_uint(x); }
FL_HD float bits_float(uint32_t x) { return __uint_as_float(x); }
#else
FL_HD float rounded_add(float a, float b) { return a + b; }
FL_HD float rounded_sub(float a, float b) { return a - b; }
FL_HD float rounded_mul(float a, float b) { return a * b; }
FL_HD float rounded_div(float a, float b) { return a / b; }
FL_HD uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
FL_HD float bits_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
#endif

FL_HD float least(float a, float b) { return a < b ? a : b; }
FL_HD float greatest(float a, float b) { return a > b ? a : b; }
FL_HD int least(int a, int b) { return a < b ? a : b; }
FL_HD float within(float x, float low, float high) { return greatest(low, least(x, high)); }
FL_HD float size_of(float x) { return x < 0.0f ? -x : x; }

// ------------------------------------------------------------------ sums of one number, rounded

// v, v + delta, (v + delta) + delta, ... in float32, as far as the rounded increment is constant:
// base + j * inc, exactly, for j = 0 .. last.
struct Progression {
  float base, inc, inv_inc;
  int last;

  FL_HD float at(int j) const { return rounded_add(base, rounded_mul(static_cast<float>(j), inc)); }
};

// Between two powers of two float32 has one spacing, and a sum is rounded to it the same way each
// time: up, down, or, from a tie, to the even neighbour, from where every further tie goes alike.
// Two equal increments are therefore followed by equal ones up to the power of two.
FL_HD Progression progression_from(float v, float delta) {
  const float v1 = rounded_add(v, delta), v2 = rounded_add(v1, delta);
  const float inc = rounded_sub(v1, v);
  const uint32_t bits = float_bits(v);
  if ((float_bits(v2) >> 23) != (bits >> 23) || rounded_sub(v2, v1) != inc || !(inc > 0.0f))
    return {v, 0.0f, 0.0f, 0};
  // The end of the binade in the direction of growth.
  const float end = bits_float((bits >> 31) ? bits & 0xff800000u : bits | 0x007fffffu);
  const int last = static_cast<int>(rounded_div(rounded_sub(end, v), inc));
  return {v, inc, 1.0f / inc, last};
}

// --------------------------------------------------------------------------------- rays and boxes

struct Ray {
  float origin[3], direction[3], inverse[3];
  float near, far;
};

constexpr float kSmallestNormal = 1.17549435e-38f;
constexpr float kLargestInput = 1e18f;
constexpr float kSmallestDirection = 1e-15f;

// Directions need not have unit length. Components too small to divide by are zero.
FL_HD Ray make_ray(const float* origin, const float* direction, float near, float far) {
  Ray ray;
  for (int a = 0; a < 3; ++a) {
    const float d = size_of(direction[a]) < kSmallestNormal ? 0.0f : direction[a];
    ray.origin[a] = origin[a];
    ray.direction[a] = d;
    ray.inverse[a] = d == 0.0f ? 0.0f : rounded_div(1.0f, d);
  }
  ray.near = size_of(near) < kSmallestNormal ? 0.0f : near;
  ray.far = far;
  return ray;
}

// Comparisons with what is not a number are false.
FL_HD bool is_ray(const float* origin, const float* direction, float near, float far) {
  float longest = 0.0f;
  bool good = size_of(near) < kLargestInput && far == far;
  for (int a = 0; a < 3; ++a) {
    good = good && size_of(origin[a]) < kLargestInput && size_of(direction[a]) < kLargestInput;
    longest = greatest(longest, size_of(direction[a]));
  }
  return good && longest > kSmallestDirection;
}

// `box` is min xyz, max xyz. A ray in the plane of a face is inside.
FL_HD bool intersect(const Ray& ray, const float* box, float& enter, float& leave) {
  enter = -kFarAway;
  leave = kFarAway;
  for (int a = 0; a < 3; ++a) {
    const float o = ray.origin[a];
    if (ray.direction[a] == 0.0f) {
      if (o < box[a] || o > box[3 + a]) return false;
      continue;
    }
    const bool along = ray.direction[a] > 0.0f;
    const float first = rounded_mul(rounded_sub(box[along ? a : 3 + a], o), ray.inverse[a]);
    const float second = rounded_mul(rounded_sub(box[along ? 3 + a : a], o), ray.inverse[a]);
    if (enter > second || first > leave) return false;
    enter = greatest(enter, first);
    leave = least(leave, second);
  }
  return leave > 0.0f;
}

// --------------------------------------------------------------------------------------- the axes

// Times as NerfAcc's walk has them.
struct AxisOfSteps {
  float next;   // when the ray leaves `cell`
  float delta;  // from face to face
  float inc, inv_inc;
  int cell, last;  // the walk ends where it leaves `last`
  int valid;       // up to this cell, times grow by `inc`
  int mirror;

  FL_HD float at(int c) const {
    return rounded_add(next, rounded_mul(static_cast<float>(c - cell), inc));
  }
  // The last cell, in a region of this edge, whose time `at` knows.
  FL_HD int end_of(int edge) {
    if (cell > valid) renew();
    return least(cell | (edge - 1), valid);
  }
  FL_HD int guess(float time, int end) const {
    return cell +
           static_cast<int>(within((time - next) * inv_inc, 0.0f, static_cast<float>(end - cell)));
  }
  FL_HD void reach(int c) {
    next = at(c);
    cell = c;
  }
  FL_HD void cross(float time, int c) {
    next = rounded_add(time, delta);
    cell = c + 1;
  }
  FL_HD void step() {
    next = rounded_add(next, delta);
    ++cell;
  }
  FL_HD void renew() {
    const Progression p = progression_from(next, delta);
    inc = p.inc;
    inv_inc = p.inv_inc;
    valid = p.last < last - cell ? cell + p.last : last;
  }
};

// Times computed from the faces' integers.
struct AxisInIndexSpace {
  float next, origin, inverse, speed;
  int cell, last;
  int mirror;

  FL_HD float at(int c) const {
    if (inverse == 0.0f) return kFarAway;
    const int face = mirror ? c ^ mirror : c + 1;
    return rounded_mul(rounded_sub(static_cast<float>(face), origin), inverse);
  }
  FL_HD int end_of(int edge) const { return least(cell | (edge - 1), last); }
  FL_HD int guess(float time, int end) const {
    return cell +
           static_cast<int>(within((time - next) * speed, 0.0f, static_cast<float>(end - cell)));
  }
  FL_HD void reach(int c) {
    cell = c;
    next = at(c);
  }
  FL_HD void cross(float, int c) { reach(c + 1); }
  FL_HD void step() { reach(cell + 1); }
};

// ------------------------------------------------------------------------------------- the walk

// Where the ray is: three axes, each with its cell and the time at which the ray leaves it.
template <typename Axis>
struct Walk {
  Axis x, y, z;
  float end;  // nothing counts from here on

  // To the next voxel. Returns whether there is one; `exit` is when the ray left this one.
  FL_HD bool step(float& exit) {
    if (x.next < y.next && x.next < z.next) return step(x, exit);
    if (y.next < z.next) return step(y, exit);
    return step(z, exit);
  }

  // Out of the region of this edge, or a part of the way.
  FL_HD bool skip(int edge, float& exit) {
    const int ex = x.end_of(edge), ey = y.end_of(edge), ez = z.end_of(edge);
    const float tx = x.at(ex), ty = y.at(ey), tz = z.at(ez);
    // Events that coincide happen in the order z, y, x: as `step` would have it.
    if (tx < ty && tx < tz) {
      const bool more = leave(x, ex, tx, exit);
      if (more) follow<true>(y, ey, tx), follow<true>(z, ez, tx);
      return more;
    }
    if (ty < tz) {
      const bool more = leave(y, ey, ty, exit);
      if (more) follow<false>(x, ex, ty), follow<true>(z, ez, ty);
      return more;
    }
    const bool more = leave(z, ez, tz, exit);
    if (more) follow<false>(x, ex, tz), follow<false>(y, ey, tz);
    return more;
  }

 private:
  FL_HD bool step(Axis& axis, float& exit) {
    exit = least(axis.next, end);
    if (axis.cell == axis.last || axis.next >= end) return false;
    axis.step();
    return true;
  }

  FL_HD bool leave(Axis& axis, int cell, float time, float& exit) {
    exit = least(time, end);
    if (cell == axis.last || time >= end) return false;
    axis.cross(time, cell);
    return true;
  }

  // How far this axis has come when another one crosses a face at `time`.
  template <bool kFirstOfEqual>
  FL_HD static void follow(Axis& axis, int end_cell, float time) {
    const auto passed = [&](int c) {
      return kFirstOfEqual ? axis.at(c) <= time : axis.at(c) < time;
    };
    int c = axis.guess(time, end_cell);
    while (c > axis.cell && !passed(c - 1)) --c;
    while (c < end_cell && passed(c)) ++c;
    if (c != axis.cell) axis.reach(c);
  }
};

// One axis as NerfAcc sets it up, between the times `enter` and `leave` inside a box. Points are
// taken a little inside, and faces are as much early.
FL_HD AxisOfSteps axis_of_steps(const Ray& ray, int a, float low, float high, int cells,
                                float enter, float leave) {
  constexpr float inside = 1e-6f;
  const float extent = rounded_sub(high, low), count = static_cast<float>(cells);
  const float o = ray.origin[a], d = ray.direction[a];
  const float voxel = rounded_div(extent, count);
  const float start = rounded_add(o, rounded_mul(d, rounded_add(enter, inside)));
  const float stop = rounded_add(o, rounded_mul(d, rounded_sub(leave, inside)));
  const auto cell_of = [&](float point) {
    const float c = rounded_mul(rounded_div(rounded_sub(point, low), extent), count);
    return static_cast<int>(within(c, 0.0f, static_cast<float>(cells - 1)));
  };
  const int first = cell_of(start), final = cell_of(stop);
  AxisOfSteps axis;
  axis.mirror = d < 0.0f ? kMirror : 0;
  axis.cell = first ^ axis.mirror;
  axis.inc = axis.inv_inc = 0.0f;
  if (d == 0.0f) {
    axis.next = leave;
    axis.delta = 0.0f;
    axis.last = axis.valid = axis.cell;
    return axis;
  }
  const float face = rounded_mul(static_cast<float>(d > 0.0f ? first + 1 : first), voxel);
  const float time =
      rounded_add(rounded_mul(rounded_add(low, rounded_sub(face, start)), ray.inverse[a]), enter);
  axis.next = within(time, -kFarAway, kFarAway);
  axis.delta = least(size_of(rounded_mul(voxel, ray.inverse[a])), kFarAway);
  // A last cell behind the first is no end: then the grid's edge is.
  axis.last = final ^ axis.mirror;
  if (axis.last < axis.cell) axis.last = (d > 0.0f ? cells - 1 : 0) ^ axis.mirror;
  axis.valid = axis.cell - 1;
  return axis;
}

FL_HD Walk<AxisOfSteps> walk_of_steps(const Ray& ray, const float* box, const int* resolution,
                                      float enter, float leave) {
  return {axis_of_steps(ray, 0, box[0], box[3], resolution[0], enter, leave),
          axis_of_steps(ray, 1, box[1], box[4], resolution[1], enter, leave),
          axis_of_steps(ray, 2, box[2], box[5], resolution[2], enter, leave), leave};
}

// One axis of a ray in index space, from `enter` on.
FL_HD AxisInIndexSpace axis_in_index_space(const Ray& ray, int a, int cells, float enter) {
  AxisInIndexSpace axis;
  const float d = ray.direction[a];
  axis.origin = ray.origin[a];
  axis.inverse = ray.inverse[a];
  axis.speed = size_of(d);
  axis.mirror = d < 0.0f ? kMirror : 0;
  const float point = ray.origin[a] + enter * d;
  const int first = static_cast<int>(within(point, 0.0f, static_cast<float>(cells - 1)));
  axis.last = (d < 0.0f ? 0 : cells - 1) ^ axis.mirror;
  if (d == 0.0f) axis.last = first;
  const int edge = (d < 0.0f ? cells - 1 : 0) ^ axis.mirror;
  int c = first ^ axis.mirror;
  // The point is rounded; the faces decide.
  while (d != 0.0f && c > edge && axis.at(c - 1) > enter) --c;
  while (c < axis.last && axis.at(c) <= enter) ++c;
  axis.reach(c);
  return axis;
}

// A ray in index space through the voxels 0 .. resolution - 1, between `enter` and `leave`.
FL_HD Walk<AxisInIndexSpace> walk_in_index_space(const Ray& ray, const int* resolution, float enter,
                                                 float leave) {
  return {axis_in_index_space(ray, 0, resolution[0], enter),
          axis_in_index_space(ray, 1, resolution[1], enter),
          axis_in_index_space(ray, 2, resolution[2], enter), leave};
}

struct Voxel {
  int x, y, z;
};

template <typename Axis>
FL_HD Voxel voxel_of(const Walk<Axis>& w) {
  return {w.x.cell ^ w.x.mirror, w.y.cell ^ w.y.mirror, w.z.cell ^ w.z.mirror};
}

// What the walk has read for the cell where it is, from the top down to the leaf's word.
struct Descent {
  Node top, node;
  uint64_t word;
  int depth;  // how many of the three are those of the current cell

  // The edge of the largest region around the voxel that the masks know to be empty; 1 and
  // `occupied` at a voxel that is set, 1 alone inside a leaf, 4 and `occupied` in a full leaf.
  FL_HD int look(const Masks& m, int level, const Voxel& v, bool& occupied) {
    occupied = false;
    if (depth < 1) top = m.tops[top_index(m, level, v.x, v.y, v.z)];
    if (depth < 1) depth = 1;
    if (top.mask == 0) return kTopEdge;
    const int node_bit = child_bit(v.x >> 4, v.y >> 4, v.z >> 4);
    if (!has_bit(top.mask, node_bit)) return kNodeEdge;
    if (depth < 2) node = m.nodes[child_index(top, node_bit)];
    const int leaf_bit = child_bit(v.x >> 2, v.y >> 2, v.z >> 2);
    if (depth < 2) depth = 2;
    if (!has_bit(node.mask, leaf_bit)) return kLeafEdge;
    if (depth < 3) word = m.leaves[child_index(node, leaf_bit)];
    depth = 3;
    occupied = has_bit(word, child_bit(v.x, v.y, v.z));
    return word == ~uint64_t{0} ? kLeafEdge : 1;
  }

  // After a move to `v` from `old`: what was read for another cell is forgotten.
  FL_HD void moved(const Voxel& old, const Voxel& v) {
    const int changed = (old.x ^ v.x) | (old.y ^ v.y) | (old.z ^ v.z);
    if (changed < kLeafEdge) return;
    const int kept = changed >= kTopEdge ? 0 : changed >= kNodeEdge ? 1 : 2;
    depth = least(depth, kept);
  }
};

// Visitor::kEveryCell: the visitor is told of every empty voxel, none taken together.
// Visitor::kFullLeaves: it takes a full leaf as one.
template <typename Axis, typename Visitor>
FL_HD void walk_masks(const Masks& m, int level, Walk<Axis>& walk, Visitor& visitor) {
  Descent descent{};
  Voxel voxel = voxel_of(walk);
  for (bool more = true; more;) {
    bool occupied;
    const int edge = descent.look(m, level, voxel, occupied);
    float exit;
    if (edge == 1 || (occupied ? !Visitor::kFullLeaves : Visitor::kEveryCell))
      more = walk.step(exit);
    else
      more = walk.skip(edge, exit);
    if (!(occupied ? visitor.occupied(exit) : visitor.empty(exit))) return;
    const Voxel now = voxel_of(walk);
    descent.moved(voxel, now);
    voxel = now;
  }
}

// The same over a dense table of bytes, [resolution], z fastest, voxel by voxel.
template <typename Axis, typename Visitor>
FL_HD void walk_dense(const uint8_t* cells, const int* resolution, Walk<Axis>& walk,
                      Visitor& visitor) {
  for (bool more = true; more;) {
    const Voxel v = voxel_of(walk);
    const int64_t cell = (static_cast<int64_t>(v.x) * resolution[1] + v.y) * resolution[2] + v.z;
    const bool occupied = cells[cell] != 0;
    float exit;
    more = walk.step(exit);
    if (!(occupied ? visitor.occupied(exit) : visitor.empty(exit))) return;
  }
}

// ------------------------------------------------------------------------------ several levels

// The part of a ray that one level's box decides.
struct Stretch {
  float enter, leave;
  int level;
};

// Where a ray enters and leaves boxes, in order.
struct Crossings {
  float time[2 * kMaxLevels];
  int16_t what[2 * kMaxLevels];  // level; + levels where it leaves
  int count, levels;

  FL_HD void insert(float t, int w) {
    int i = count++;
    for (; i > 0 && before(t, w, time[i - 1], what[i - 1]); --i) {
      time[i] = time[i - 1];
      what[i] = what[i - 1];
    }
    time[i] = t;
    what[i] = static_cast<int16_t>(w);
  }
  // Of boxes entered at once, the coarsest first: the finest is then the last word.
  FL_HD bool before(float t, int w, float other_t, int other_w) const {
    if (t != other_t) return t < other_t;
    if (w < levels && other_w < levels) return w > other_w;
    return w >= levels && other_w < levels;
  }
};

FL_HD void find_crossings(const Ray& ray, const float* boxes, int levels, Crossings& found) {
  found.count = 0;
  found.levels = levels;
  for (int level = 0; level < levels; ++level) {
    float enter, leave;
    if (!intersect(ray, boxes + 6 * level, enter, leave)) continue;
    found.insert(enter, level);
    found.insert(leave, level + levels);
  }
}

// Whether there is something between one crossing and the next: the box that was entered last, or,
// where the ray leaves one, the box that it leaves next.
FL_HD bool stretch_between(float time, int64_t what, float next_time, int64_t next_what, int levels,
                           float near, float far, Stretch& s) {
  s.level = static_cast<int>(what % levels);
  if (what >= levels) {
    if (next_what < levels) return false;
    s.level = static_cast<int>(next_what % levels);
  }
  s.enter = greatest(time, near);
  s.leave = least(next_time, far);
  return s.enter < s.leave;
}

// f(stretch) for the parts of the ray, in order, until it returns false.
template <typename F>
FL_HD void for_stretches(const Ray& ray, const float* boxes, int levels, const F& f) {
  Stretch s;
  if (levels == 1) {
    if (!intersect(ray, boxes, s.enter, s.leave)) return;
    s = {greatest(s.enter, ray.near), least(s.leave, ray.far), 0};
    if (s.enter < s.leave) f(s);
    return;
  }
  Crossings found;
  find_crossings(ray, boxes, levels, found);
  for (int i = 0; i + 1 < found.count; ++i)
    if (stretch_between(found.time[i], found.what[i], found.time[i + 1], found.what[i + 1], levels,
                        ray.near, ray.far, s) &&
        !f(s))
      return;
}

}  // namespace fl::vdb
