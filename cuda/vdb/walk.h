// SPDX-License-Identifier: Apache-2.0
//
// How a ray passes through nested masks: from cell to cell, or over whole empty regions of 4^3,
// 16^3 and 64^3 voxels. Needs no torch: kernels of users include it too (fl.cuda_include_dir()).
//
//     Walk<AxisInIndexSpace> walk = walk_in_index_space(ray, resolution, enter, leave);
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

// The walk keeps its state in registers only where the functions that it is handed are inlined.
#if defined(__CUDACC__)
#define FL_INLINE
#else
#define FL_INLINE __attribute__((always_inline))
#endif

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

FL_HD float lesser(float a, float b) { return a < b ? a : b; }
FL_HD float greater(float a, float b) { return a > b ? a : b; }
FL_HD int lesser(int a, int b) { return a < b ? a : b; }
FL_HD float bounded(float x, float low, float high) { return greater(low, lesser(x, high)); }
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
    longest = greater(longest, size_of(direction[a]));
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
    enter = greater(enter, first);
    leave = lesser(leave, second);
  }
  return leave > 0.0f;
}

// --------------------------------------------------------------------------------------- the axes

// Times as NerfAcc's walk has them: `base` for the cell `origin`, growing by `inc` up to `valid`.
struct AxisOfSteps {
  float base, inc, inv_inc;
  float delta;  // from face to face, before rounding
  int origin, valid;
  int cell, last;  // where the ray is; the walk ends where it leaves `last`
  int mirror;

  // When the ray leaves cell c, which is not beyond `valid`.
  FL_HD float at(int c) const {
    return rounded_add(base, rounded_mul(static_cast<float>(c - origin), inc));
  }
  // When it leaves cell c + 1, given when it leaves c.
  FL_HD float after(float time, int) const { return rounded_add(time, delta); }
  FL_HD int guess(float time, int end) const {
    return origin + static_cast<int>(bounded((time - base) * inv_inc + 1.0f,
                                             static_cast<float>(cell - origin),
                                             static_cast<float>(end - origin)));
  }
  FL_HD void begin(float time) {
    const Progression p = progression_from(time, delta);
    base = time;
    inc = p.inc;
    inv_inc = p.inv_inc;
    origin = cell;
    valid = p.last < last - cell ? cell + p.last : last;
  }
  FL_HD void renew() {
    if (cell > valid) begin(rounded_add(at(valid), delta));
  }
};

// Times computed from the faces' integers.
struct AxisInIndexSpace {
  float origin, inverse, speed;
  int cell, last, valid;
  int mirror;

  FL_HD float at(int c) const {
    if (inverse == 0.0f) return kFarAway;
    const int face = mirror ? c ^ mirror : c + 1;
    return rounded_mul(rounded_sub(static_cast<float>(face), origin), inverse);
  }
  FL_HD float after(float, int c) const { return at(c + 1); }
  FL_HD int guess(float time, int end) const {
    return cell + static_cast<int>(bounded((time - at(cell)) * speed + 1.0f, 0.0f,
                                           static_cast<float>(end - cell)));
  }
  FL_HD void renew() {}
};

// ------------------------------------------------------------------------------------- the walk

// Where the ray is: three axes, and the face that it crossed last. An axis that is not the last
// one crossed may lag behind, inside a block that the walk takes as a whole, until somebody needs
// to know (`refine`).
template <typename Axis>
struct Walk {
  Axis axis[3];
  float time;   // of the last crossing
  int crossed;  // its axis; 3 at the start
  float end;    // nothing counts from here on

  // Crossings that coincide happen in the order z, y, x.
  template <int A>
  FL_HD void refine(int end_cell) {
    Axis& own = axis[A];
    const bool with_equal = A > crossed;
    const auto passed = [&](int c) FL_INLINE {
      const float t = own.at(c);
      return t < time || (with_equal && t == time);
    };
    int c = own.guess(time, end_cell);
    while (c > own.cell && !passed(c - 1)) --c;
    while (c < end_cell && passed(c)) ++c;
    own.cell = c;
  }
};

FL_HD int first_axis(float tx, float ty, float tz) {
  return tx < ty && tx < tz ? 0 : ty < tz ? 1 : 2;
}

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
  const auto cell_of = [&](float point) FL_INLINE {
    const float c = rounded_mul(rounded_div(rounded_sub(point, low), extent), count);
    return static_cast<int>(bounded(c, 0.0f, static_cast<float>(cells - 1)));
  };
  const int first = cell_of(start), final = cell_of(stop);
  AxisOfSteps axis;
  axis.mirror = d < 0.0f ? kMirror : 0;
  axis.cell = first ^ axis.mirror;
  if (d == 0.0f) {
    axis.delta = 0.0f;
    axis.last = axis.cell;
    axis.begin(leave);
    return axis;
  }
  const float face = rounded_mul(static_cast<float>(d > 0.0f ? first + 1 : first), voxel);
  const float time =
      rounded_add(rounded_mul(rounded_add(low, rounded_sub(face, start)), ray.inverse[a]), enter);
  axis.delta = lesser(size_of(rounded_mul(voxel, ray.inverse[a])), kFarAway);
  // A last cell behind the first is no end: then the grid's edge is.
  axis.last = final ^ axis.mirror;
  if (axis.last < axis.cell) axis.last = (d > 0.0f ? cells - 1 : 0) ^ axis.mirror;
  axis.begin(bounded(time, -kFarAway, kFarAway));
  return axis;
}

FL_HD Walk<AxisOfSteps> walk_of_steps(const Ray& ray, const float* box, const int* resolution,
                                      float enter, float leave) {
  return {{axis_of_steps(ray, 0, box[0], box[3], resolution[0], enter, leave),
           axis_of_steps(ray, 1, box[1], box[4], resolution[1], enter, leave),
           axis_of_steps(ray, 2, box[2], box[5], resolution[2], enter, leave)},
          -kFarAway,
          3,
          leave};
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
  const int first = static_cast<int>(bounded(point, 0.0f, static_cast<float>(cells - 1)));
  axis.last = d == 0.0f ? first : (d < 0.0f ? 0 : cells - 1) ^ axis.mirror;
  axis.valid = axis.last;
  const int edge = (d < 0.0f ? cells - 1 : 0) ^ axis.mirror;
  axis.cell = first ^ axis.mirror;
  // The point is rounded; the faces decide.
  while (d != 0.0f && axis.cell > edge && axis.at(axis.cell - 1) > enter) --axis.cell;
  while (axis.cell < axis.last && axis.at(axis.cell) <= enter) ++axis.cell;
  return axis;
}

// A ray in index space through the voxels 0 .. resolution - 1, between `enter` and `leave`.
FL_HD Walk<AxisInIndexSpace> walk_in_index_space(const Ray& ray, const int* resolution, float enter,
                                                 float leave) {
  return {{axis_in_index_space(ray, 0, resolution[0], enter),
           axis_in_index_space(ray, 1, resolution[1], enter),
           axis_in_index_space(ray, 2, resolution[2], enter)},
          -kFarAway,
          3,
          leave};
}

struct Voxel {
  int x, y, z;
};

template <typename Axis>
FL_HD Voxel voxel_of(const Walk<Axis>& w) {
  return {w.axis[0].cell ^ w.axis[0].mirror, w.axis[1].cell ^ w.axis[1].mirror,
          w.axis[2].cell ^ w.axis[2].mirror};
}

// Where and when the ray leaves the block of this edge around its cell, by each axis.
template <int kEdge>
struct Block {
  int cell[3];
  float time[3];

  template <int A, typename Axis>
  FL_HD void set(const Axis& axis) {
    cell[A] = lesser(axis.cell | (kEdge - 1), axis.valid);
    time[A] = axis.at(cell[A]);
  }
  template <typename Axis>
  FL_HD explicit Block(const Walk<Axis>& w) {
    set<0>(w.axis[0]);
    set<1>(w.axis[1]);
    set<2>(w.axis[2]);
  }
  FL_HD float exit() const { return lesser(time[0], lesser(time[1], time[2])); }
};

// The ray crosses out of a block by one axis. False where its walk ends.
template <int A, int kEdge, typename Axis>
FL_HD bool cross(const Block<kEdge>& block, Walk<Axis>& w) {
  Axis& axis = w.axis[A];
  if (block.cell[A] == axis.last || block.time[A] >= w.end) return false;
  axis.cell = block.cell[A] + 1;
  w.time = block.time[A];
  w.crossed = A;
  return true;
}

// What the ray does next in the block that surrounds the blocks it walks through: it is over, out
// of the surrounding block (or at the end of what `valid` allows), or in it.
enum class Next { over, out, in };

template <int A, int kEdge, int kAround, typename Axis>
FL_HD Next enter_next(Block<kEdge>& block, Walk<Axis>& w) {
  Axis& axis = w.axis[A];
  if (kAround == 0) {
    axis.renew();
  } else if ((axis.cell & (kAround - 1)) == 0 || axis.cell > axis.valid) {
    return Next::out;
  }
  block.template set<A>(axis);
  return Next::in;
}

// Walks through blocks of kEdge inside one of kAround (0: inside the whole grid). `handle(block)`
// says what became of the current one: the visitor has enough or the walk is over (over), the ray
// has been walked out of it (out), or it is to be crossed in one step (in).
template <int kEdge, int kAround, typename Axis, typename Handle>
FL_HD Next walk_blocks(Walk<Axis>& w, const Handle& handle) {
  Block<kEdge> block(w);
  for (;;) {
    const Next handled = handle(block);
    if (handled == Next::over) return Next::over;
    const int axis =
        handled == Next::out ? w.crossed : first_axis(block.time[0], block.time[1], block.time[2]);
    const bool crossed = handled == Next::out || (axis == 0   ? cross<0>(block, w)
                                                  : axis == 1 ? cross<1>(block, w)
                                                              : cross<2>(block, w));
    if (!crossed) return Next::over;
    const Next next = axis == 0   ? enter_next<0, kEdge, kAround>(block, w)
                      : axis == 1 ? enter_next<1, kEdge, kAround>(block, w)
                                  : enter_next<2, kEdge, kAround>(block, w);
    if (next != Next::in) return next;
  }
}

// Before walking through smaller blocks: no axis may lag.
template <int kEdge, typename Axis>
FL_HD void refine_in(const Block<kEdge>& block, Walk<Axis>& w) {
  if (w.crossed == 3) return;
  if (w.crossed != 0) w.template refine<0>(block.cell[0]);
  if (w.crossed != 1) w.template refine<1>(block.cell[1]);
  if (w.crossed != 2) w.template refine<2>(block.cell[2]);
}

// Voxel by voxel through a block of `around`. `occupied(bit)` looks one up in its leaf.
template <typename Axis, typename Visitor, typename Occupied>
FL_HD Next walk_voxels(Walk<Axis>& w, int around, Visitor& visitor, const Occupied& occupied) {
  Axis &x = w.axis[0], &y = w.axis[1], &z = w.axis[2];
  float tx = x.at(x.cell), ty = y.at(y.cell), tz = z.at(z.cell);
  const int flip = child_bit(x.mirror, y.mirror, z.mirror);
  int bit = child_bit(x.cell, y.cell, z.cell);  // mirrored, as the cells are
  const auto step = [&](Axis& axis, float& next, int a) FL_INLINE {
    if (axis.cell == axis.last || next >= w.end) return Next::over;
    w.time = next;
    w.crossed = a;
    next = axis.after(next, axis.cell);
    ++axis.cell;
    bit += a == 0 ? 16 : a == 1 ? 4 : 1;
    const bool out = (axis.cell & (around - 1)) == 0 || axis.cell > axis.valid;
    return out ? Next::out : Next::in;
  };
  for (;;) {
    const float exit = lesser(lesser(tx, lesser(ty, tz)), w.end);
    if (!(occupied(bit ^ flip) ? visitor.occupied(exit) : visitor.empty(exit))) return Next::over;
    const Next next = tx < ty && tx < tz ? step(x, tx, 0)
                      : ty < tz          ? step(y, ty, 1)
                                         : step(z, tz, 2);
    if (next != Next::in) return next;
  }
}

// An empty block: crossed in one step, or, for a visitor of every cell, voxel by voxel.
template <int kEdge, typename Axis, typename Visitor>
FL_HD Next pass_empty(const Block<kEdge>& block, Walk<Axis>& w, Visitor& visitor) {
  if (Visitor::kEveryCell) {
    refine_in(block, w);
    return walk_voxels(w, kEdge, visitor, [](int) FL_INLINE { return false; });
  }
  return visitor.empty(lesser(block.exit(), w.end)) ? Next::in : Next::over;
}

template <typename Axis, typename Visitor>
FL_HD Next walk_leaf(uint64_t word, const Block<kLeafEdge>& block, Walk<Axis>& w,
                     Visitor& visitor) {
  if (word == ~uint64_t{0} && Visitor::kFullLeaves)
    return visitor.occupied(lesser(block.exit(), w.end)) ? Next::in : Next::over;
  refine_in(block, w);
  return walk_voxels(w, kLeafEdge, visitor,
                     [word](int bit) FL_INLINE { return has_bit(word, bit); });
}

template <typename Axis, typename Visitor>
FL_HD Next walk_node(const Masks& m, const Node& node, Walk<Axis>& w, Visitor& visitor) {
  return walk_blocks<kLeafEdge, kNodeEdge>(w, [&](const Block<kLeafEdge>& block) FL_INLINE {
    const Voxel v = voxel_of(w);
    const int bit = child_bit(v.x >> 2, v.y >> 2, v.z >> 2);
    if (!has_bit(node.mask, bit)) return pass_empty(block, w, visitor);
    return walk_leaf(m.leaves[child_index(node, bit)], block, w, visitor);
  });
}

template <typename Axis, typename Visitor>
FL_HD Next walk_top(const Masks& m, const Node& top, Walk<Axis>& w, Visitor& visitor) {
  return walk_blocks<kNodeEdge, kTopEdge>(w, [&](const Block<kNodeEdge>& block) FL_INLINE {
    const Voxel v = voxel_of(w);
    const int bit = child_bit(v.x >> 4, v.y >> 4, v.z >> 4);
    if (!has_bit(top.mask, bit)) return pass_empty(block, w, visitor);
    refine_in(block, w);
    return walk_node(m, m.nodes[child_index(top, bit)], w, visitor);
  });
}

// Visitor::kEveryCell: the visitor is told of every empty voxel, none taken together.
// Visitor::kFullLeaves: it takes a full leaf as one.
template <typename Axis, typename Visitor>
FL_HD void walk_masks(const Masks& m, int level, Walk<Axis>& walk, Visitor& visitor) {
  walk_blocks<kTopEdge, 0>(walk, [&](const Block<kTopEdge>& block) FL_INLINE {
    const Voxel v = voxel_of(walk);
    const Node top = m.tops[top_index(m, level, v.x, v.y, v.z)];
    if (top.mask == 0) return pass_empty(block, walk, visitor);
    refine_in(block, walk);
    return walk_top(m, top, walk, visitor);
  });
}

// The same over a dense table of bytes, [resolution], z fastest, voxel by voxel.
template <typename Axis, typename Visitor>
FL_HD void walk_dense(const uint8_t* cells, const int* resolution, const Walk<Axis>& walk,
                      Visitor& visitor) {
  const Axis &x = walk.axis[0], &y = walk.axis[1], &z = walk.axis[2];
  const int64_t row = resolution[2], slice = row * resolution[1];
  const int64_t x_stride = x.mirror ? -slice : slice, y_stride = y.mirror ? -row : row;
  const int64_t z_stride = z.mirror ? -1 : 1;
  const Voxel first = voxel_of(walk);
  const uint8_t* cell = cells + first.x * slice + first.y * row + first.z;
  float tx = x.at(x.cell), ty = y.at(y.cell), tz = z.at(z.cell);
  int cx = x.cell, cy = y.cell, cz = z.cell;
  const auto step = [&](const Axis& axis, float& time, int& c, int64_t stride) FL_INLINE {
    if (c == axis.last || time >= walk.end) return false;
    time = axis.after(time, c);
    ++c;
    cell += stride;
    return true;
  };
  for (bool more = true; more;) {
    const float exit = lesser(lesser(tx, lesser(ty, tz)), walk.end);
    if (!(*cell != 0 ? visitor.occupied(exit) : visitor.empty(exit))) return;
    more = tx < ty && tx < tz ? step(x, tx, cx, x_stride)
           : ty < tz          ? step(y, ty, cy, y_stride)
                              : step(z, tz, cz, z_stride);
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
  // Of boxes entered at once, the coarsest first: the finest is then the last word. What is left
  // at once is left last, so that a box touched in a point says nothing of what follows.
  FL_HD bool before(float t, int w, float other_t, int other_w) const {
    if (t != other_t) return t < other_t;
    if (w < levels && other_w < levels) return w > other_w;
    return w < levels && other_w >= levels;
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
  s.enter = greater(time, near);
  s.leave = lesser(next_time, far);
  return s.enter < s.leave;
}

// f(stretch) for the parts of the ray, in order, until it returns false.
template <typename F>
FL_HD void for_stretches(const Ray& ray, const float* boxes, int levels, const F& f) {
  Stretch s;
  if (levels == 1) {
    if (!intersect(ray, boxes, s.enter, s.leave)) return;
    s = {greater(s.enter, ray.near), lesser(s.leave, ray.far), 0};
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
