// SPDX-License-Identifier: Apache-2.0
//
// Sixteen rays at once through the cells of a small grid, one bit each. Every lane is a ray of its
// own that goes from cell to cell as walk_dense of walk.h does, with the same float32 operations in
// the same order; rays that wait take the lanes of rays that have ended. CMake compiles this file
// without contraction.
#include <cstddef>

#include "core/portable.h"
#include "core/simd.h"
#include "vdb/walk_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

// ------------------------------------------------------------------------------ sixteen rays begin

struct Rays16 {
  Float16 origin[3], direction[3], inverse[3], near, far;
};

FL_SIMD Float16 size16(Float16 x) { return select(less(x, Float16{}), -x, x); }

FL_SIMD Float16 bounded16(Float16 x, Float16 low, Float16 high) {
  return max16(low, min16(x, high));
}

FL_SIMD Mask16 equal16(Float16 a, Float16 b) { return less_equal(a, b) & less_equal(b, a); }

FL_SIMD Mask16 everywhere() { return mask_from_bits(0xffff); }

// `count` rays, the last of them in the lanes that are left over.
FL_SIMD Rays16 load_rays(const vdb::RayArgs& rays, int64_t first, int count) {
  float lanes[8][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t i = first + (lane < count ? lane : count - 1);
    for (int a = 0; a < 3; ++a) {
      lanes[a][lane] = rays.origins[3 * i + a];
      lanes[3 + a][lane] = rays.directions[3 * i + a];
    }
    lanes[6][lane] = rays.near[i];
    lanes[7][lane] = rays.far[i];
  }
  Rays16 r;
  for (int a = 0; a < 3; ++a) {
    r.origin[a] = load16(lanes[a]);
    r.direction[a] = load16(lanes[3 + a]);
  }
  r.near = load16(lanes[6]);
  r.far = load16(lanes[7]);
  return r;
}

// is_ray of walk.h; then what make_ray does.
FL_SIMD Mask16 check_and_make(Rays16& r) {
  const Float16 most = splat16(vdb::kLargestInput), smallest = splat16(vdb::kSmallestNormal);
  Float16 longest{};
  Mask16 good = less(size16(r.near), most) & equal16(r.far, r.far);
  for (int a = 0; a < 3; ++a) {
    const Float16 length = size16(r.direction[a]);
    good = good & less(size16(r.origin[a]), most) & less(length, most);
    longest = max16(longest, length);
    r.direction[a] = select(less(length, smallest), Float16{}, r.direction[a]);
    r.inverse[a] =
        select(equal16(r.direction[a], Float16{}), Float16{}, splat16(1.0f) / r.direction[a]);
  }
  r.near = select(less(size16(r.near), smallest), Float16{}, r.near);
  return good & less(splat16(vdb::kSmallestDirection), longest);
}

// intersect of walk.h, with the planes: the rays that have a part inside the box.
FL_SIMD Mask16 clip(const Rays16& r, const float* box, Float16& enter, Float16& leave) {
  Mask16 missed = mask_from_bits(0);
  enter = splat16(-vdb::kFarAway);
  leave = splat16(vdb::kFarAway);
  for (int a = 0; a < 3; ++a) {
    const Float16 o = r.origin[a], d = r.direction[a];
    const Float16 low = splat16(box[a]), high = splat16(box[3 + a]);
    const Mask16 flat = equal16(d, Float16{}), along = less(Float16{}, d);
    const Float16 first = (select(along, low, high) - o) * r.inverse[a];
    const Float16 second = (select(along, high, low) - o) * r.inverse[a];
    missed = missed | (flat & (less(o, low) | less(high, o))) |
             and_not(less(second, enter) | less(leave, first), flat);
    enter = select(flat, enter, max16(enter, first));
    leave = select(flat, leave, min16(leave, second));
  }
  missed = missed | less_equal(leave, Float16{});
  enter = max16(enter, r.near);
  leave = min16(leave, r.far);
  return and_not(less(enter, leave), missed);
}

// One axis of axis_of_steps of walk.h: the time of the first face, the time from face to face, the
// first cell and how many steps lead to the last.
struct Axis16 {
  Float16 time, delta;
  Int16 cell, steps;
  Mask16 against;
};

FL_SIMD Axis16 begin_axis(const Rays16& r, int a, float low, float high, int cells, Float16 enter,
                          Float16 leave) {
  constexpr float inside = 1e-6f;
  const Float16 o = r.origin[a], d = r.direction[a];
  const Float16 least = splat16(low), extent = splat16(high - low);
  const Float16 count = splat16(static_cast<float>(cells)), voxel = extent / count;
  const Float16 start = o + d * (enter + inside), stop = o + d * (leave - inside);
  const Float16 edge = splat16(static_cast<float>(cells - 1));
  const Int16 first = __builtin_convertvector(
      bounded16((start - least) / extent * count, Float16{}, edge), Int16);
  const Int16 final = __builtin_convertvector(
      bounded16((stop - least) / extent * count, Float16{}, edge), Int16);
  const Mask16 flat = equal16(d, Float16{}), along = less(Float16{}, d);
  const Float16 face = __builtin_convertvector(select(along, first + 1, first), Float16) * voxel;
  const Float16 time = (least + (face - start)) * r.inverse[a] + enter;
  Axis16 axis;
  axis.against = less(d, Float16{});
  axis.cell = first;
  axis.time =
      select(flat, leave, bounded16(time, splat16(-vdb::kFarAway), splat16(vdb::kFarAway)));
  axis.delta =
      select(flat, Float16{}, min16(size16(voxel * r.inverse[a]), splat16(vdb::kFarAway)));
  // A last cell behind the first is no end: then the grid's edge is.
  const Int16 forward = select(along, final - first, first - final);
  const Int16 to_edge = select(along, cells - 1 - first, first);
  axis.steps = select(flat, Int16{}, select(any_bit(forward & INT32_MIN), to_edge, forward));
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
  alignas(64) int32_t field[kFields][vdb::kRaysAtOnce + kLanes];
  int count;

  void append(int which, Mask16 lanes, Int16 v) {
    const Int16 packed = compress16(lanes, v);
    std::memcpy(field[which] + count, &packed, sizeof(packed));
  }
  void append(int which, Mask16 lanes, Float16 v) {
    append(which, lanes, reinterpret_cast<Int16>(v));
  }
};

FL_SIMD uint32_t fill_queue(const vdb::CellGrid& grid, const vdb::RayArgs& rays, int64_t begin,
                            int64_t i, int count, Queue& queue) {
  Rays16 r = load_rays(rays, i, count);
  const Mask16 good = check_and_make(r);
  Float16 enter, leave;
  const Mask16 lanes = clip(r, grid.box, enter, leave) & good & mask_from_bits((1u << count) - 1);
  const int32_t strides[3] = {grid.slice, grid.row, 1};
  const int32_t step[3] = {kStepX, kStepY, kStepZ};
  Int16 cell{}, steps{};
  for (int a = 0; a < 3; ++a) {
    const Axis16 axis =
        begin_axis(r, a, grid.box[a], grid.box[3 + a], grid.resolution[a], enter, leave);
    queue.append(kTime + a, lanes, axis.time);
    queue.append(kDelta + a, lanes, axis.delta);
    queue.append(kStride + a, lanes,
                 select(axis.against, Int16{} - strides[a], Int16{} + strides[a]));
    cell += axis.cell * strides[a];
    steps += axis.steps * step[a];
  }
  const Int16 number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  queue.append(kEnd, lanes, leave);
  queue.append(kUntil, lanes, enter);
  queue.append(kCell, lanes, cell);
  queue.append(kSteps, lanes, steps | kGuards);
  queue.append(kRay, lanes, number + static_cast<int32_t>(i - begin));
  queue.count += __builtin_popcount(bits_of(lanes));
  return bits_of(good);
}

// Sixteen walks under way.
struct Lanes {
  Float16 time[3], delta[3], end, until, begun;
  Int16 stride[3], cell, steps, ray;
  Mask16 active, inside;
};

FL_SIMD void take(Mask16 lanes, const int32_t* from, Int16& v) {
  Int16 next;
  std::memcpy(&next, from, sizeof(next));
  v = select(lanes, expand16(lanes, next), v);
}

FL_SIMD void take(Mask16 lanes, const int32_t* from, Float16& v) {
  Int16 bits = reinterpret_cast<Int16>(v);
  take(lanes, from, bits);
  v = reinterpret_cast<Float16>(bits);
}

// Idle lanes get the queue's rays from `at` on; returns how many.
FL_SIMD int refill(const Queue& queue, int at, Lanes& w) {
  uint32_t idle = ~bits_of(w.active) & 0xffff;
  int count = __builtin_popcount(idle);
  for (; count > queue.count - at; --count) idle &= ~(0x80000000u >> __builtin_clz(idle));
  const Mask16 lanes = mask_from_bits(idle);
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

// ------------------------------------------------------------------------------------------ the walk

FL_SIMD void store_parts(uint32_t lanes, Float16 begins, Float16 ends, Int16 rays,
                         const vdb::PartTarget& target) {
  alignas(64) float begin[kLanes], end[kLanes];
  alignas(64) int32_t ray[kLanes];
  store16(begin, begins);
  store16(end, ends);
  std::memcpy(ray, &rays, sizeof(ray));
  for (; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes), r = ray[lane];
    target.parts[static_cast<int64_t>(r) * target.stride + target.counts[r]++] = {begin[lane],
                                                                                  end[lane]};
  }
}

// One cell on.
FL_SIMD void step_lanes(const uint32_t* bits, Lanes& w, const vdb::PartTarget& target) {
  const Float16 x = w.time[0], y = w.time[1], z = w.time[2];
  const Mask16 by_x = less(x, y) & less(x, z), by_y = and_not(less(y, z), by_x);
  const Mask16 by_z = and_not(everywhere(), by_x | by_y);
  const Float16 exit = min16(min16(x, min16(y, z)), w.end);
  const Int16 word = gather16(w.active, bits, w.cell >> 5);
  const Mask16 occupied = any_bit(word & ((Int16{} + 1) << (w.cell & 31)));
  w.steps -= select(by_x, Int16{} + kStepX, select(by_y, Int16{} + kStepY, Int16{} + kStepZ));
  const Mask16 over = (greater_equal(exit, w.end) | any_bit((w.steps & kGuards) ^ kGuards));
  // A part ends before an empty cell, or where the walk ends.
  w.begun = select(and_not(occupied, w.inside), w.until, w.begun);
  const uint32_t ending = bits_of(and_not(w.inside, occupied) | (occupied & over));
  if (ending != 0)
    store_parts(ending, w.begun, select(occupied, exit, w.until), w.ray, target);
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
  for (int64_t i = begin; i < end; i += kLanes) {
    const int count = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    const uint32_t wrong = ~fill_queue(grid, rays, begin, i, count, queue) & ((1u << count) - 1);
    if (wrong != 0 && bad == end) bad = i + __builtin_ctz(wrong);
  }
  for (int64_t r = 0; r < end - begin; ++r) target.counts[r] = 0;
  Lanes w{};
  w.active = w.inside = mask_from_bits(0);
  constexpr int kFewIdle = 4;  // lanes; fewer are not worth a refill
  for (int at = 0;;) {
    if (at < queue.count) at += refill(queue, at, w);
    const int enough = at < queue.count ? kLanes - kFewIdle : 0;
    if (bits_of(w.active) == 0) break;
    do
      step_lanes(grid.bits, w, target);
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
