// SPDX-License-Identifier: Apache-2.0
//
// What the emulator says when something is wrong.
#include <algorithm>
#include <sstream>

#include "emulate/machine.h"

namespace fl {
namespace emulate {

std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

std::string text(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

namespace {

std::string name_of(BlockOp op) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_or",
                                      "__syncthreads_and"};
  return names[static_cast<int>(op)];
}

}  // namespace

std::string name_of(WarpOp op) {
  static const char* const names[] = {
      "__syncwarp",        "__ballot_sync",     "__any_sync",        "__all_sync",
      "__match_any_sync",  "__match_all_sync",  "__shfl_sync",       "__shfl_up_sync",
      "__shfl_down_sync",  "__shfl_xor_sync",   "__reduce_add_sync", "__reduce_min_sync",
      "__reduce_min_sync", "__reduce_max_sync", "__reduce_max_sync", "__reduce_and_sync",
      "__reduce_or_sync",  "__reduce_xor_sync"};
  return names[static_cast<int>(op)];
}

std::string where_block() {
  return std::string("emulated kernel ") + machine.kernel + ", block " + text(coordinates.block);
}

std::string where_thread() { return where_block() + ", thread " + text(coordinates.thread) + ": "; }

namespace {

std::string describe_wait(const Thread& thread) {
  std::ostringstream out;
  if (thread.wait == Wait::block) out << name_of(thread.block_op);
  if (thread.wait == Wait::yield) out << "__nanosleep";
  if (thread.wait == Wait::warp)
    out << name_of(thread.warp_op) << " with mask 0x" << std::hex << thread.mask;
  out << " in " << text(thread.site);
  return out.str();
}

}  // namespace

// Threads that wait at one place are named together.
std::string describe_waits() {
  struct Place {
    std::string wait;
    const Thread* first;
    unsigned count;
  };
  std::vector<Place> places;
  for (const Thread& thread : machine.threads) {
    if (thread.state == State::ended || thread.wait == Wait::none) continue;
    const std::string wait = describe_wait(thread);
    auto same = std::find_if(places.begin(), places.end(),
                             [&](const Place& place) { return place.wait == wait; });
    if (same == places.end())
      places.push_back({wait, &thread, 1});
    else
      ++same->count;
  }
  std::string all;
  for (std::size_t i = 0; i < places.size() && i < 8; ++i)
    all += "; " + std::to_string(places[i].count) + " of them, first " +
           text(places[i].first->index) + ", at " + places[i].wait;
  return all;
}

std::runtime_error deadlock() {
  return std::runtime_error(where_block() + ": deadlock: " + std::to_string(machine.live) + " of " +
                            std::to_string(machine.threads.size()) +
                            " threads wait for threads that cannot arrive" + describe_waits());
}

void fail_out_of_bounds(const char* name, long long index, unsigned long long count) {
  throw std::runtime_error(where_thread() + "shared array '" + name + "' of " +
                           std::to_string(count) + " indexed with " + std::to_string(index));
}

void fail_trap() { throw std::runtime_error(where_thread() + "__trap"); }

}  // namespace emulate
}  // namespace fl
