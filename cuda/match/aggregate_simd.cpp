// SPDX-License-Identifier: Apache-2.0
//
// Semi-global aggregation on the CPU: sixteen neighbouring lines advance together, so that one
// line's latency hides behind the others and memory is read in runs; each pixel's planes are
// vectors of 32 numbers of 16 bits. Both directions run while the lines are in the cache.
#include "match/aggregate_simd.h"

#include <cstring>

#include "core/simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using match::AggregateArgs;
using match::Axis;
using match::kBeyondPlanes;
using match::kBlockLines;
using match::kStateMargin;
using match::kStateSize;
using match::Line;

constexpr int kWide = 32;
typedef uint16_t Short32 __attribute__((vector_size(64), aligned(64)));
typedef uint8_t Byte32 __attribute__((vector_size(32), aligned(32)));

FL_SIMD Short32 load32(const uint16_t* p) {
  Short32 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
FL_SIMD void store32(uint16_t* p, Short32 v) { std::memcpy(p, &v, sizeof(v)); }
FL_SIMD Short32 all32(int value) { return Short32{} + static_cast<uint16_t>(value); }
FL_SIMD Short32 min32(Short32 a, Short32 b) { return a < b ? a : b; }

FL_SIMD int least_of(Short32 v) {
  uint16_t x[kWide];
  std::memcpy(x, &v, sizeof(v));
  for (int width = kWide / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) x[i] = x[i + width] < x[i] ? x[i + width] : x[i];
  return x[0];
}

struct Step {
  const uint8_t* cost;
  const uint16_t* before;  // the path's state one pixel back
  int least_before, p1, p2;
  uint16_t* here;
  uint16_t* total;
};

FL_SIMD Short32 path_costs(const Step& s, Short32 cost, int d) {
  const Short32 same = load32(s.before + d);
  const Short32 next = min32(load32(s.before + d - 1), load32(s.before + d + 1));
  const Short32 way = min32(min32(same, next + all32(s.p1)), all32(s.least_before + s.p2));
  return cost + way - all32(s.least_before);
}

FL_SIMD Short32 load_costs(const uint8_t* p, int count) {
  Byte32 bytes = {};
  std::memcpy(&bytes, p, static_cast<std::size_t>(count));
  return __builtin_convertvector(bytes, Short32);
}

// Returns the least cost at the pixel. The last vector may be partly beyond the planes.
template <bool kFresh>
FL_SIMD int advance(const Step& s, int planes) {
  Short32 least = all32(kBeyondPlanes);
  int d = 0;
  for (; d + kWide <= planes; d += kWide) {
    const Short32 v = path_costs(s, load_costs(s.cost + d, kWide), d);
    store32(s.here + d, v);
    store32(s.total + d, kFresh ? v : load32(s.total + d) + v);
    least = min32(least, v);
  }
  const int rest = planes - d;
  if (rest > 0) {
    const Short32 lane = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                          16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    const Short32 v = path_costs(s, load_costs(s.cost + d, rest), d);
    const Short32 kept = lane < all32(rest) ? v : all32(kBeyondPlanes);
    store32(s.here + d, kept);
    least = min32(least, kept);
    for (int i = 0; i < rest; ++i)
      s.total[d + i] = static_cast<uint16_t>((kFresh ? 0 : s.total[d + i]) + s.here[d + i]);
  }
  return least_of(least);
}

struct Runner {
  Line line;
  uint16_t *here, *before;
  int least, grey;
};

// A path begins as if the pixel before it had all planes for nothing.
FL_SIMD void begin_path(Runner& r, int planes) {
  for (uint16_t* state : {r.here, r.before}) {
    for (int d = -kStateMargin; d < planes + kStateMargin; ++d) state[d] = kBeyondPlanes;
  }
  std::memset(r.before, 0, sizeof(uint16_t) * planes);
  r.least = 0;
  r.grey = -1;
}

template <bool kFresh>
FL_SIMD void visit(const AggregateArgs& a, Runner& r, int64_t pixel) {
  const int grey = match::grey_of(a.guide[pixel]);
  const int p2 = r.grey < 0 ? a.penalties.p2 : match::edge_penalty(a.penalties, grey, r.grey);
  r.least = advance<kFresh>({a.cost + pixel * a.planes, r.before, r.least, a.penalties.p1, p2,
                             r.here, a.total + pixel * a.planes},
                            a.planes);
  r.grey = grey;
  uint16_t* before = r.before;
  r.before = r.here;
  r.here = before;
}

// A diagonal's row of the image is its place in time, so that lines that start on a side join in.
FL_SIMD int64_t pixel_of(const AggregateArgs& a, const Axis& axis, const Line& line, int step) {
  return static_cast<int64_t>(line.y + axis.dy * step) * a.width + line.x + axis.dx * step;
}

template <bool kFresh>
FL_SIMD void run_block(const AggregateArgs& a, int axis_index, int first, int count,
                       uint16_t* states) {
  const Axis axis = match::axis_of(axis_index);
  Runner runners[kBlockLines];
  const bool by_row = axis.dy != 0;
  int begin = INT32_MAX, end = 0;
  for (int i = 0; i < count; ++i) {
    Runner& r = runners[i];
    r.line = match::line_of(axis, first + i, a.width, a.height);
    r.here = states + (2 * i) * kStateSize + kStateMargin;
    r.before = states + (2 * i + 1) * kStateSize + kStateMargin;
    begin_path(r, a.planes);
    const int start = by_row ? r.line.y : 0;
    begin = start < begin ? start : begin;
    end = start + r.line.length > end ? start + r.line.length : end;
  }
  const auto visit_at = [&](int time, auto fresh) {
    for (int i = 0; i < count; ++i) {
      Runner& r = runners[i];
      const int step = by_row ? time - r.line.y : time;
      if (step >= 0 && step < r.line.length)
        visit<decltype(fresh)::value>(a, r, pixel_of(a, axis, r.line, step));
    }
  };
  for (int time = begin; time < end; ++time) visit_at(time, std::integral_constant<bool, kFresh>{});
  for (int i = 0; i < count; ++i) begin_path(runners[i], a.planes);
  for (int time = end - 1; time >= begin; --time) visit_at(time, std::false_type{});
}

}  // namespace

void aggregate_block(const AggregateArgs& a, int axis, int first_line, int count, bool fresh,
                     uint16_t* states) {
  if (fresh)
    run_block<true>(a, axis, first_line, count, states);
  else
    run_block<false>(a, axis, first_line, count, states);
}

}  // namespace FL_ISA
}  // namespace fl
