// SPDX-License-Identifier: Apache-2.0
//
// Warp operations: lanes gather in groups of equal operation and mask; the last one to arrive works
// out the result of each.
#include <algorithm>

#include "emulate/machine.h"

namespace fl {
namespace emulate {

namespace {

// The lane that `lane` reads, or `lane` itself where the hardware leaves the value alone.
unsigned source_lane(WarpOp op, unsigned lane, int parameter, int width) {
  const int segment = static_cast<int>(lane) & ~(width - 1);
  const int last = segment + width - 1;
  const int self = static_cast<int>(lane);
  int source = self;
  if (op == WarpOp::shuffle) source = segment + (parameter & (width - 1));
  if (op == WarpOp::shuffle_up) source = self - (parameter & 31);
  if (op == WarpOp::shuffle_down) source = self + (parameter & 31);
  if (op == WarpOp::shuffle_xor) source = self ^ (parameter & 31);
  const bool outside = op == WarpOp::shuffle_up ? source < segment : source > last;
  return static_cast<unsigned>(outside ? self : source);
}

uint64_t reduce(WarpOp op, uint64_t a, uint64_t b) {
  const auto x = static_cast<unsigned>(a), y = static_cast<unsigned>(b);
  const auto i = static_cast<int>(x), j = static_cast<int>(y);
  switch (op) {
    case WarpOp::add:
      return x + y;
    case WarpOp::minimum_signed:
      return static_cast<unsigned>(std::min(i, j));
    case WarpOp::minimum:
      return std::min(x, y);
    case WarpOp::maximum_signed:
      return static_cast<unsigned>(std::max(i, j));
    case WarpOp::maximum:
      return std::max(x, y);
    case WarpOp::bit_and:
      return x & y;
    case WarpOp::bit_xor:
      return x ^ y;
    default:
      return x | y;
  }
}

unsigned matching_lanes(const Warp& warp, unsigned lanes, uint64_t value) {
  unsigned same = 0;
  for_lanes(lanes, [&](unsigned lane) {
    if (warp.operand[lane] == value) same |= 1u << lane;
  });
  return same;
}

// What every lane of a complete group gets, unless each lane gets its own.
uint64_t common_result(const Warp& warp, WarpOp op, unsigned lanes) {
  const unsigned first = static_cast<unsigned>(__builtin_ctz(lanes));
  switch (op) {
    case WarpOp::ballot:
      return lanes & ~matching_lanes(warp, lanes, 0);
    case WarpOp::any:
      return matching_lanes(warp, lanes, 0) != lanes;
    case WarpOp::all:
      return matching_lanes(warp, lanes, 0) == 0;
    case WarpOp::match_all:
      return matching_lanes(warp, lanes, warp.operand[first]) == lanes ? lanes : 0u;
    default:
      break;
  }
  uint64_t total = warp.operand[first];
  for_lanes(lanes & (lanes - 1),
            [&](unsigned lane) { total = reduce(op, total, warp.operand[lane]); });
  return total;
}

bool is_shuffle(WarpOp op) { return op >= WarpOp::shuffle && op <= WarpOp::shuffle_xor; }

void complete_group(Warp& warp, unsigned first_thread, unsigned index) {
  const Group group = warp.groups[index];
  warp.groups[index] = warp.groups[--warp.group_count];
  const bool own = is_shuffle(group.op) || group.op == WarpOp::match_any;
  const uint64_t common =
      own || group.op == WarpOp::barrier ? 0 : common_result(warp, group.op, group.arrived);
  for_lanes(group.arrived, [&](unsigned lane) {
    Thread& thread = machine.threads[first_thread + lane];
    thread.result = common;
    if (is_shuffle(group.op)) {
      const unsigned source = source_lane(group.op, lane, warp.parameter[lane], warp.width[lane]);
      thread.result = group.arrived >> source & 1u ? warp.operand[source] : undefined_bits;
    } else if (group.op == WarpOp::match_any) {
      thread.result = matching_lanes(warp, group.arrived, warp.operand[lane]);
    }
    wake(thread);
  });
}

}  // namespace

void complete_groups(unsigned warp_index) {
  Warp& warp = machine.warps[warp_index];
  for (unsigned i = 0; i < warp.group_count;) {
    const Group& group = warp.groups[i];
    if (group.arrived == (group.mask & warp.live))
      complete_group(warp, warp_index * warp_lanes, i);
    else
      ++i;
  }
}

uint64_t warp_operation(WarpOp op, unsigned mask, uint64_t operand, int parameter, int width,
                        Site site) {
  Thread& self = *machine.current;
  const unsigned lane = self.linear % warp_lanes;
  const unsigned warp_index = self.linear / warp_lanes;
  Warp& warp = machine.warps[warp_index];
  if ((mask >> lane & 1u) == 0)
    throw std::runtime_error(where_thread() + name_of(op) + " at " + text(site) +
                             ": the mask does not name the calling lane " + std::to_string(lane));
  if (width <= 0 || width > 32 || (width & (width - 1)) != 0)
    throw std::runtime_error(where_thread() + name_of(op) + " at " + text(site) +
                             ": expected a width of 1, 2, 4, 8, 16 or 32, got " +
                             std::to_string(width));
  warp.operand[lane] = operand;
  warp.parameter[lane] = parameter;
  warp.width[lane] = width;
  self.warp_op = op;
  self.mask = mask;
  self.wait = Wait::warp;

  unsigned index = 0;
  while (index < warp.group_count &&
         (warp.groups[index].op != op || warp.groups[index].mask != mask))
    ++index;
  if (index == warp.group_count) warp.groups[warp.group_count++] = {op, mask, 0};
  Group& group = warp.groups[index];
  group.arrived |= 1u << lane;
  if (group.arrived == (mask & warp.live))
    complete_group(warp, warp_index * warp_lanes, index);
  else
    wait(Wait::warp, site);
  return self.result;
}

unsigned lane_index() { return machine.current->linear % warp_lanes; }

}  // namespace emulate
}  // namespace fl
