// SPDX-License-Identifier: Apache-2.0
//
// Many rays at once through the cells of a small grid, one bit each. Every lane is a ray of its
// own that goes from cell to cell as walk_dense of walk.h does, with the same float32 operations in
// the same order; rays that wait take the lanes of rays that have ended. CMake compiles this file
// without contraction.
#include <cstddef>

#include "core/lanes.h"
#include "vdb/walk_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

// ------------------------------------------------------------------------------ rays begin

constexpr uint32_t kAllLanes = (1u << kWidth) - 1;

struct Rays {
  Floats origin[3], direction[3], inverse[3], near, far;
};

FL_SIMD Floats size_of(Floats x) { return select(less(x, Floats{}), -x, x); }

FL_SIMD Floats bounded(Floats x, Floats low, Floats high) { return greater(low, lesser(x, high)); }

FL_SIMD Mask equal(Floats a, Floats b) { return less_equal(a, b) & less_equal(b, a); }

// `count` rays, the last of them in the lanes that are left over.
FL_SIMD Rays load_rays(const vdb::RayArgs& rays, int64_t first, int count) {
  float lanes[8][kWidth];
  for (int lane = 0; lane < kWidth; ++lane) {
    const int64_t i = first + (lane < count ? lane : count - 1);
    for (int a = 0; a < 3; ++a) {
      lanes[a][lane] = rays.origins[3 * i + a];
      lanes[3 + a][lane] = rays.directions[3 * i + a];
    }
    lanes[6][lane] = rays.near[i];
    lanes[7][lane] = rays.far[i];
  }
  Rays r;
  for (int a = 0; a < 3; ++a) {
    r.origin[a] = load<Floats>(lanes[a]);
    r.direction[a] = load<Floats>(lanes[3 + a]);
  }
  r.near = load<Floats>(lanes[6]);
  r.far = load<Floats>(lanes[7]);
  return r;
}

// is_ray of walk.h; then what make_ray does.
FL_SIMD Mask check_and_make(Rays& r) {
  const Floats most = splat(vdb::kLargestInput), smallest = splat(vdb::kSmallestNormal);
  Floats longest{};
  Mask good = less(size_of(r.near), most) & equal(r.far, r.far);
  for (int a = 0; a < 3; ++a) {
    const Floats length = size_of(r.direction[a]);
    good = good & less(size_of(r.origin[a]), most) & less(length, most);
    longest = greater(longest, length);
    r.direction[a] = select(less(length, smallest), Floats{}, r.direction[a]);
    r.inverse[a] = select(equal(r.direction[a], Floats{}), Floats{}, splat(1.0f) / r.direction[a]);
  }
  r.near = select(less(size_of(r.near), smallest), Floats{}, r.near);
  return good & less(splat(vdb::kSmallestDirection), longest);
}

// intersect of walk.h, with the planes: the rays that have a part inside the box.
FL_SIMD Mask clip(const Rays& r, const float* box, Floats& enter, Floats& leave) {
  Mask missed = mask_of(0);
  enter = splat(-vdb::kFarAway);
  leave = splat(vdb::kFarAway);
  for (int a = 0; a < 3; ++a) {
    const Floats o = r.origin[a], d = r.direction[a];
    const Floats low = splat(box[a]), high = splat(box[3 + a]);
    const Mask flat = equal(d, Floats{}), along = less(Floats{}, d);
    const Floats first = (select(along, low, high) - o) * r.inverse[a];
    const Floats second = (select(along, high, low) - o) * r.inverse[a];
    missed = missed | (flat & (less(o, low) | less(high, o))) |
             and_not(less(second, enter) | less(leave, first), flat);
    enter = select(flat, enter, greater(enter, first));
    leave = select(flat, leave, lesser(leave, second));
  }
  missed = missed | less_equal(leave, Floats{});
  enter = greater(enter, r.near);
  leave = lesser(leave, r.far);
  return and_not(less(enter, leave), missed);
}

// One axis of axis_of_steps of walk.h: the time of the first face, the time from face to face, the
// first cell and how many steps lead to the last.
struct BeginningAxis {
  Floats time, delta;
  Ints cell, steps;
  Mask against;
};

FL_SIMD BeginningAxis begin_axis(const Rays& r, int a, float low, float high, int cells,
                                 Floats enter, Floats leave) {
  constexpr float inside = 1e-6f;
  const Floats o = r.origin[a], d = r.direction[a];
  const Floats least = splat(low), extent = splat(high - low);
  const Floats count = splat(static_cast<float>(cells)), voxel = extent / count;
  const Floats start = o + d * (enter + inside), stop = o + d * (leave - inside);
  const Floats edge = splat(static_cast<float>(cells - 1));
  const Ints first = truncated(bounded((start - least) / extent * count, Floats{}, edge));
  const Ints final = truncated(bounded((stop - least) / extent * count, Floats{}, edge));
  const Mask flat = equal(d, Floats{}), along = less(Floats{}, d);
  const Floats face = to_floats(select(along, first + 1, first)) * voxel;
  const Floats time = (least + (face - start)) * r.inverse[a] + enter;
  BeginningAxis axis;
  axis.against = less(d, Floats{});
  axis.cell = first;
  axis.time = select(flat, leave, bounded(time, splat(-vdb::kFarAway), splat(vdb::kFarAway)));
  axis.delta = select(flat, Floats{}, lesser(size_of(voxel * r.inverse[a]), splat(vdb::kFarAway)));
  // A last cell behind the first is no end: then the grid's edge is.
  const Ints forward = select(along, final - first, first - final);
  const Ints to_edge = select(along, cells - 1 - first, first);
  axis.steps = select(flat, Ints{}, select(any_bit(forward & INT32_MIN), to_edge, forward));
  return axis;
}

// --------------------------------------------------------------------------------- lanes and queue

constexpr int kTime = 0, kDelta = 3, kEnd = 6, kUntil = 7, kStride = 8, kCell = 11, kSteps = 12,
              kRay = 13, kFields = 14;

// The steps that are left along three axes, and a guard bit above each, which an axis that is asked
// for one more borrows from.
constexpr int kStepBits = 10;
constexpr int32_t kStepX = 1, kStepY = 1 << kStepBits, kStepZ = 1 << 2 * kStepBits;
constexpr int32_t kGuards = (kStepX + kStepY + kStepZ) << (kStepBits - 1);
static_assert(vdb::kMostCells <= 1 << (kStepBits - 1), "steps must leave the guard bit clear");

// Rays that are about to walk.
struct Queue {
  alignas(64) int32_t field[kFields][vdb::kRaysAtOnce + kWidth];
  int count;

  void append(int which, Mask lanes, Ints v) { store(field[which] + count, compress(lanes, v)); }
  void append(int which, Mask lanes, Floats v) { append(which, lanes, reinterpret_cast<Ints>(v)); }
};

FL_SIMD uint32_t fill_queue(const vdb::CellGrid& grid, const vdb::RayArgs& rays, int64_t begin,
                            int64_t i, int count, Queue& queue) {
  Rays r = load_rays(rays, i, count);
  const Mask good = check_and_make(r);
  Floats enter, leave;
  const Mask lanes = clip(r, grid.box, enter, leave) & good & mask_of((1u << count) - 1);
  const int32_t strides[3] = {grid.slice, grid.row, 1};
  const int32_t step[3] = {kStepX, kStepY, kStepZ};
  Ints cell{}, steps{};
  for (int a = 0; a < 3; ++a) {
    const BeginningAxis axis =
        begin_axis(r, a, grid.box[a], grid.box[3 + a], grid.resolution[a], enter, leave);
    queue.append(kTime + a, lanes, axis.time);
    queue.append(kDelta + a, lanes, axis.delta);
    queue.append(kStride + a, lanes,
                 select(axis.against, Ints{} - strides[a], Ints{} + strides[a]));
    cell += axis.cell * strides[a];
    steps += axis.steps * step[a];
  }
  alignas(64) int32_t number[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) number[lane] = static_cast<int32_t>(i - begin) + lane;
  queue.append(kEnd, lanes, leave);
  queue.append(kUntil, lanes, enter);
  queue.append(kCell, lanes, cell);
  queue.append(kSteps, lanes, steps | kGuards);
  queue.append(kRay, lanes, load<Ints>(number));
  queue.count += __builtin_popcount(bits_of(lanes));
  return bits_of(good);
}

// A walk under way in each lane.
struct Lanes {
  Floats time[3], delta[3], end, until, begun;
  Ints stride[3], cell, steps, ray;
  Mask active, inside;
};

FL_SIMD void take(Mask lanes, const int32_t* from, Ints& v) {
  v = select(lanes, expand(lanes, load<Ints>(from)), v);
}

FL_SIMD void take(Mask lanes, const int32_t* from, Floats& v) {
  Ints bits = reinterpret_cast<Ints>(v);
  take(lanes, from, bits);
  v = reinterpret_cast<Floats>(bits);
}

// Idle lanes get the queue's rays from `at` on; returns how many.
FL_SIMD int refill(const Queue& queue, int at, Lanes& w) {
  uint32_t idle = ~bits_of(w.active) & kAllLanes;
  int count = __builtin_popcount(idle);
  for (; count > queue.count - at; --count) idle &= ~(0x80000000u >> __builtin_clz(idle));
  const Mask lanes = mask_of(idle);
  for (int a = 0; a < 3; ++a) {
    take(lanes, queue.field[kTime + a] + at, w.time[a]);
    take(lanes, queue.field[kDelta + a] + at, w.delta[a]);
    take(lanes, queue.field[kStride + a] + at, w.stride[a]);
  }
  take(lanes, queue.field[kEnd] + at, w.end);
  take(lanes, queue.field[kUntil] + at, w.until);
  take(lanes, queue.field[kCell] + at, w.cell);
  take(lanes, queue.field[kSteps] + at, w.steps);
  take(lanes, queue.field[kRay] + at, w.ray);
  w.active = w.active | lanes;
  return count;
}

// ------------------------------------------------------------------------------------------ the
// walk

FL_SIMD void store_parts(uint32_t lanes, Floats begins, Floats ends, Ints rays,
                         const vdb::PartTarget& target) {
  alignas(64) float begin[kWidth], end[kWidth];
  alignas(64) int32_t ray[kWidth];
  store(begin, begins);
  store(end, ends);
  store(ray, rays);
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes), r = ray[lane];
    target.parts[static_cast<int64_t>(r) * target.stride + target.counts[r]++] = {begin[lane],
                                                                                  end[lane]};
  }
}

// One cell on.
FL_SIMD void step_lanes(const uint32_t* bits, Lanes& w, const vdb::PartTarget& target) {
  const Floats x = w.time[0], y = w.time[1], z = w.time[2];
  const Mask by_x = less(x, y) & less(x, z), by_y = and_not(less(y, z), by_x);
  const Mask by_z = and_not(mask_of(~0u), by_x | by_y);
  const Floats exit = lesser(lesser(x, lesser(y, z)), w.end);
  const Ints word = gather(w.active, bits, w.cell >> 5);
  const Mask occupied = any_bit(word & ((Ints{} + 1) << (w.cell & 31)));
  w.steps -= select(by_x, Ints{} + kStepX, select(by_y, Ints{} + kStepY, Ints{} + kStepZ));
  const Mask over = (less_equal(w.end, exit) | any_bit((w.steps & kGuards) ^ kGuards));
  // A part ends before an empty cell, or where the walk ends.
  w.begun = select(and_not(occupied, w.inside), w.until, w.begun);
  const uint32_t ending = bits_of(and_not(w.inside, occupied) | (occupied & over));
  if (ending != 0) store_parts(ending, w.begun, select(occupied, exit, w.until), w.ray, target);
  w.until = exit;
  w.inside = and_not(occupied, over);
  w.active = and_not(w.active, over);
  w.time[0] = select(by_x, x + w.delta[0], x);
  w.time[1] = select(by_y, y + w.delta[1], y);
  w.time[2] = select(by_z, z + w.delta[2], z);
  w.cell += select(by_x, w.stride[0], select(by_y, w.stride[1], w.stride[2]));
}

// Which of up to 32 bytes are not zero.
FL_SIMD uint32_t pack_bytes(const uint8_t* bytes, int64_t count) {
  uint32_t word = 0;
#if defined(__SSE2__)
  if (count >= 32) {
    for (int half = 0; half < 2; ++half) {
      const __m128i v =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + std::ptrdiff_t{16} * half));
      const uint32_t zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128()));
      word |= (~zeros & 0xffff) << 16 * half;
    }
    return word;
  }
#endif
  for (int64_t i = 0; i < count && i < 32; ++i) word |= (bytes[i] != 0 ? 1u : 0u) << i;
  return word;
}

}  // namespace

int64_t find_parts(const vdb::CellGrid& grid, const vdb::RayArgs& rays, int64_t begin, int64_t end,
                   const vdb::PartTarget& target) {
  Queue queue;
  queue.count = 0;
  int64_t bad = end;
  for (int64_t i = begin; i < end; i += kWidth) {
    const int count = static_cast<int>(end - i < kWidth ? end - i : kWidth);
    const uint32_t wrong = ~fill_queue(grid, rays, begin, i, count, queue) & ((1u << count) - 1);
    if (wrong != 0 && bad == end) bad = i + __builtin_ctz(wrong);
  }
  for (int64_t r = 0; r < end - begin; ++r) target.counts[r] = 0;
  Lanes w{};
  w.active = w.inside = mask_of(0);
  constexpr int kFewIdle = kWidth / 4;  // lanes; fewer are not worth a refill
  for (int at = 0;;) {
    if (at < queue.count) at += refill(queue, at, w);
    const int enough = at < queue.count ? kWidth - kFewIdle : 0;
    if (bits_of(w.active) == 0) break;
    do step_lanes(grid.bits, w, target);
    while (__builtin_popcount(bits_of(w.active)) > enough);
  }
  return bad;
}

void pack_cells(const uint8_t* cells, const vdb::CellGrid& grid, int64_t first, int64_t last,
                uint32_t* bits) {
  const int64_t columns = grid.resolution[2];
  for (int64_t x = first; x < last; ++x)
    for (int64_t y = 0; y < grid.resolution[1]; ++y) {
      const uint8_t* row = cells + (x * grid.resolution[1] + y) * columns;
      uint32_t* words = bits + (x * grid.slice + y * grid.row) / 32;
      for (int64_t z = 0; z < columns; z += 32, ++words) *words = pack_bytes(row + z, columns - z);
    }
}

}  // namespace FL_ISA
}  // namespace fl
