// SPDX-License-Identifier: Apache-2.0
//
// Many rays at once through the cells of a small grid, one bit each. Every lane is a ray of its
// own that goes from cell to cell as walk_dense of walk.h does, with the same float32 operations in
// the same order; rays that wait take the lanes of rays that have ended. CMake compiles this file
// without contraction.
#include <cstddef>
#include <type_traits>

#include "core/lanes.h"
#include "vdb/walk_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

// ------------------------------------------------------------------------------ rays begin

constexpr uint32_t kAllLanes = (1u << kWidth) - 1;

FL_SIMD Mask all() { return mask_of(kAllLanes); }

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

// ---------------------------------------------------------------------------------------- the axes

// Where a ray begins along an axis, and how many cells it may cross.
struct Begin {
  Ints cell, steps;
};

FL_SIMD Ints cell_of(Floats at, int cells) {
  return truncated(bounded(at, Floats{}, splat(static_cast<float>(cells - 1))));
}

// AxisOfSteps of walk.h, whose times grow by additions.
struct StepAxis {
  static constexpr bool kLatestExit = false;  // samples end with each cell, as NerfAcc's do

  Floats time, delta;
  Ints stride;

  template <typename F>
  FL_INLINE void each(const F& f) {
    f(time), f(delta), f(stride);
  }
  FL_INLINE void cross(Mask by) { time = select(by, time + delta, time); }

  FL_INLINE Begin begin(const Rays& r, int a, float low, float high, int cells, Floats enter,
                        Floats leave) {
    constexpr float inside = 1e-6f;
    const Floats o = r.origin[a], d = r.direction[a], least = splat(low);
    const Floats extent = splat(high - low), count = splat(static_cast<float>(cells));
    const Floats voxel = extent / count;
    const Floats start = o + d * (enter + inside), stop = o + d * (leave - inside);
    const Ints first = cell_of((start - least) / extent * count, cells);
    const Ints final = cell_of((stop - least) / extent * count, cells);
    const Mask flat = equal(d, Floats{}), along = less(Floats{}, d);
    const Floats face = to_floats(select(along, first + 1, first)) * voxel;
    const Floats first_time = (least + (face - start)) * r.inverse[a] + enter;
    time = select(flat, leave, bounded(first_time, splat(-vdb::kFarAway), splat(vdb::kFarAway)));
    delta = select(flat, Floats{}, lesser(size_of(voxel * r.inverse[a]), splat(vdb::kFarAway)));
    // A last cell behind the first is no end: then the grid's edge is.
    const Ints forward = select(along, final - first, first - final);
    const Ints to_edge = select(along, cells - 1 - first, first);
    const Ints steps = select(any_bit(forward & INT32_MIN), to_edge, forward);
    return {first, select(flat, Ints{}, steps)};
  }
};

// AxisInIndexSpace of walk.h, whose times come from the faces' integers.
struct FaceAxis {
  static constexpr bool kLatestExit = true;  // segments never shrink

  Floats time, face, way, origin, inverse;
  Ints stride;

  template <typename F>
  FL_INLINE void each(const F& f) {
    f(time), f(face), f(way), f(origin), f(inverse), f(stride);
  }
  FL_INLINE Floats time_at(Floats at) const { return (at - origin) * inverse; }
  FL_INLINE void cross(Mask by) {
    face = select(by, face + way, face);
    time = time_at(face);
  }

  FL_INLINE Begin begin(const Rays& r, int a, float, float, int cells, Floats enter, Floats) {
    const Floats d = r.direction[a];
    const Mask flat = equal(d, Floats{}), along = less(Floats{}, d), slanted = and_not(all(), flat);
    origin = r.origin[a];
    inverse = r.inverse[a];
    way = select(along, splat(1.0f), splat(-1.0f));
    const Ints forward = select(along, Ints{} + 1, Ints{} - 1), most = Ints{} + (cells - 1);
    Ints cell = cell_of(origin + enter * d, cells);
    Ints steps = select(flat, Ints{}, select(along, most - cell, cell));
    face = to_floats(select(along, cell + 1, cell));
    // The point is rounded; the faces decide.
    for (;;) {
      const Mask back = slanted & any_bit(steps - most) & less(enter, time_at(face - way));
      if (bits_of(back) == 0) break;
      face = select(back, face - way, face);
      cell = select(back, cell - forward, cell);
      steps = select(back, steps + 1, steps);
    }
    for (;;) {
      const Mask on = any_bit(steps) & less_equal(time_at(face), enter);
      if (bits_of(on) == 0) break;
      face = select(on, face + way, face);
      cell = select(on, cell + forward, cell);
      steps = select(on, steps - 1, steps);
    }
    // A flat axis is never crossed.
    face = select(flat, splat(vdb::kFarAway), face);
    origin = select(flat, Floats{}, origin);
    inverse = select(flat, splat(1.0f), inverse);
    time = time_at(face);
    return {cell, steps};
  }
};

// --------------------------------------------------------------------------------- lanes and queue

// The steps that are left along three axes, and a guard bit above each, which an axis that is asked
// for one more borrows from.
constexpr int kStepBits = 10;
constexpr int32_t kStep[3] = {1, 1 << kStepBits, 1 << 2 * kStepBits};
constexpr int32_t kGuards = (kStep[0] + kStep[1] + kStep[2]) << (kStepBits - 1);
static_assert(vdb::kMostCells <= 1 << (kStepBits - 1), "steps must leave the guard bit clear");

// A walk under way in each lane.
template <typename Axis>
struct Lanes {
  Axis axis[3];
  Floats end, until;
  Ints cell, steps, ray;
  Floats begun;
  Mask active, inside;

  // What a ray brings along.
  template <typename F>
  FL_INLINE void each(const F& f) {
    axis[0].each(f), axis[1].each(f), axis[2].each(f);
    f(end), f(until), f(cell), f(steps), f(ray);
  }
};

// Rays that are about to walk.
struct Queue {
  static constexpr int kFields = 23;

  alignas(64) int32_t field[kFields][vdb::kRaysAtOnce + kWidth];
  int count;
};

// The lanes that are good rays, whether or not they meet the box.
template <typename Axis>
FL_SIMD uint32_t fill_queue(const vdb::CellGrid& grid, const vdb::RayArgs& rays, int64_t begin,
                            int64_t i, int count, Queue& queue) {
  Rays r = load_rays(rays, i, count);
  const Mask good = check_and_make(r);
  Lanes<Axis> w;
  const Mask lanes = clip(r, grid.box, w.until, w.end) & good & mask_of((1u << count) - 1);
  const int32_t strides[3] = {grid.slice, grid.row, 1};
  w.cell = Ints{};
  w.steps = Ints{} + kGuards;
  for (int a = 0; a < 3; ++a) {
    const Begin b =
        w.axis[a].begin(r, a, grid.box[a], grid.box[3 + a], grid.resolution[a], w.until, w.end);
    w.axis[a].stride =
        select(less(r.direction[a], Floats{}), Ints{} - strides[a], Ints{} + strides[a]);
    w.cell += b.cell * strides[a];
    w.steps += b.steps * kStep[a];
  }
  alignas(64) int32_t number[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) number[lane] = static_cast<int32_t>(i - begin) + lane;
  w.ray = load<Ints>(number);
  int field = 0;
  w.each([&](const auto& v) FL_INLINE {
    store(queue.field[field++] + queue.count, compress(lanes, reinterpret_cast<Ints>(v)));
  });
  queue.count += __builtin_popcount(bits_of(lanes));
  return bits_of(good);
}

// Idle lanes get the queue's rays from `at` on; returns how many.
template <typename Axis>
FL_SIMD int refill(const Queue& queue, int at, Lanes<Axis>& w) {
  uint32_t idle = ~bits_of(w.active) & kAllLanes;
  int count = __builtin_popcount(idle);
  for (; count > queue.count - at; --count) idle &= ~(0x80000000u >> __builtin_clz(idle));
  const Mask lanes = mask_of(idle);
  int field = 0;
  w.each([&](auto& v) FL_INLINE {
    using Vector = std::remove_reference_t<decltype(v)>;
    const Ints next = expand(lanes, load<Ints>(queue.field[field++] + at));
    v = select(lanes, reinterpret_cast<Vector>(next), v);
  });
  w.active = w.active | lanes;
  return count;
}

// ---------------------------------------------------------------------------------------- the walk

FL_SIMD void store_parts(uint32_t lanes, Floats begins, Floats ends, Ints rays,
                         const vdb::PartTarget& target) {
  alignas(64) float begin[kWidth], end[kWidth];
  alignas(64) int32_t ray[kWidth];
  store(begin, begins);
  store(end, ends);
  store(ray, rays);
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes), r = ray[lane];
    target.parts[r * target.stride + target.counts[r]++] = {begin[lane], end[lane]};
  }
}

// One cell on.
template <typename Axis>
FL_SIMD void step_lanes(const uint32_t* bits, Lanes<Axis>& w, const vdb::PartTarget& target) {
  const Floats x = w.axis[0].time, y = w.axis[1].time, z = w.axis[2].time;
  const Mask by_x = less(x, y) & less(x, z), by_y = and_not(less(y, z), by_x);
  const Mask by_z = and_not(all(), by_x | by_y);
  const auto of_crossed = [&](Ints of_x, Ints of_y, Ints of_z)
                              FL_INLINE { return select(by_x, of_x, select(by_y, of_y, of_z)); };
  const Floats exit = lesser(lesser(x, lesser(y, z)), w.end);
  const Ints word = gather(w.active, bits, w.cell >> 5);
  const Mask occupied = any_bit(word & ((Ints{} + 1) << (w.cell & 31)));
  w.steps -= of_crossed(Ints{} + kStep[0], Ints{} + kStep[1], Ints{} + kStep[2]);
  const Mask over = less_equal(w.end, exit) | any_bit((w.steps & kGuards) ^ kGuards);
  // A part ends before an empty cell, or where the walk ends.
  w.begun = select(and_not(occupied, w.inside), w.until, w.begun);
  const uint32_t ending = bits_of(and_not(w.inside, occupied) | (occupied & over));
  const Floats until = Axis::kLatestExit ? greater(w.until, exit) : exit;
  if (ending != 0) store_parts(ending, w.begun, select(occupied, until, w.until), w.ray, target);
  w.until = until;
  w.inside = and_not(occupied, over);
  w.active = and_not(w.active, over);
  w.axis[0].cross(by_x);
  w.axis[1].cross(by_y);
  w.axis[2].cross(by_z);
  w.cell += of_crossed(w.axis[0].stride, w.axis[1].stride, w.axis[2].stride);
}

template <typename Axis>
FL_SIMD int64_t walk_cells(const vdb::CellGrid& grid, const vdb::RayArgs& rays, int64_t begin,
                           int64_t end, const vdb::PartTarget& target) {
  Queue queue;
  queue.count = 0;
  int64_t bad = end;
  for (int64_t i = begin; i < end; i += kWidth) {
    const int count = static_cast<int>(end - i < kWidth ? end - i : kWidth);
    const uint32_t wrong =
        ~fill_queue<Axis>(grid, rays, begin, i, count, queue) & ((1u << count) - 1);
    if (wrong != 0 && bad == end) bad = i + __builtin_ctz(wrong);
  }
  for (int64_t r = 0; r < end - begin; ++r) target.counts[r] = 0;
  Lanes<Axis> w{};
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
  return walk_cells<StepAxis>(grid, rays, begin, end, target);
}

int64_t find_parts_in_index_space(const vdb::CellGrid& grid, const vdb::RayArgs& rays,
                                  int64_t begin, int64_t end, const vdb::PartTarget& target) {
  return walk_cells<FaceAxis>(grid, rays, begin, end, target);
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
