// SPDX-License-Identifier: Apache-2.0
//
// The scheduler. Three kinds of fibre-sized things:
//   host    the caller of FL_LAUNCH, which starts blocks and gathers errors
//   worker  a pooled stack that runs threads of the block one after another, as long as they do
//           not wait; a thread that waits keeps the worker it is on
//   thread  a CUDA thread's record: where it waits, for what, and the result it will wake up with
// Control always passes straight from the worker that stops to the one that goes on.
#include "emulate/emulator.h"

#include <algorithm>
#include <array>
#include <exception>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulate/fibre.h"

#ifdef FL_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace fl {
namespace emulate {

Coordinates coordinates{};
uint64_t block_serial = 0;

namespace {

constexpr unsigned warp_lanes = 32;
constexpr uint64_t undefined_bits = 0x7FFDCDCD7FFDCDCDull;
constexpr std::size_t static_shared_limit = 48 * 1024;
constexpr std::size_t shared_limit = 99 * 1024;
constexpr std::size_t margin_bytes = 128;
constexpr uint64_t fruitless_yields_limit = 1000000;

// Thrown in threads that wait when their block has failed, to unwind their stacks.
struct Cancelled {};

enum class State : uint8_t { unstarted, running, waiting, ready, ended };
enum class Wait : uint8_t { none, block, warp, yield };

struct Thread {
  uint3 index{};
  unsigned linear = 0;
  State state = State::unstarted;
  Wait wait = Wait::none;
  BlockOp block_op{};
  WarpOp warp_op{};
  unsigned mask = 0;
  Site site{};
  uint64_t result = 0;
  Fibre* fibre = nullptr;
};

// The lanes that wait at one warp operation: those with the same operation and the same mask.
struct Group {
  WarpOp op;
  unsigned mask;
  unsigned arrived;
};

struct Warp {
  unsigned live = 0;
  unsigned group_count = 0;
  std::array<Group, warp_lanes> groups;
  std::array<uint64_t, warp_lanes> operand;
  std::array<int, warp_lanes> parameter;
  std::array<int, warp_lanes> width;
};

struct SharedRange {
  unsigned char* low;
  std::size_t bytes;
  const char* name;
};

struct Machine {
  const char* kernel = "";
  void (*call)(void*) = nullptr;
  void* arguments = nullptr;

  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> order;  // the n-th thread to start
  unsigned started = 0;
  unsigned live = 0;
  Thread* current = nullptr;
  std::vector<Thread*> ready;  // a ring: at most every thread once
  std::size_t ready_head = 0, ready_count = 0;
  uint64_t fruitless_yields = 0;

  unsigned barrier_arrived = 0;
  BlockOp barrier_op{};
  Site barrier_site{};
  int barrier_count = 0;

  Fibre host;
  std::vector<Fibre*> idle_workers;
  Fibre* entering = nullptr;  // the worker that a switch is about to start
  std::exception_ptr error;
  bool failed = false;

  std::vector<unsigned char> shared;
  std::vector<SharedRange> ranges;
  std::size_t shared_used = 0, dynamic_bytes = 0;
  unsigned char* dynamic_data = nullptr;

  int64_t thread_order = 0;
  uint64_t random = 0;
};

Machine machine;

// ---------------------------------------------------------------------------- words for errors

std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

std::string text(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string name_of(BlockOp op) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_or",
                                      "__syncthreads_and"};
  return names[static_cast<int>(op)];
}

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

std::string where_thread() {
  return where_block() + ", thread " + text(coordinates.thread) + ": ";
}

std::string describe_wait(const Thread& thread) {
  std::ostringstream out;
  if (thread.wait == Wait::block) out << name_of(thread.block_op);
  if (thread.wait == Wait::yield) out << "__nanosleep";
  if (thread.wait == Wait::warp)
    out << name_of(thread.warp_op) << " with mask 0x" << std::hex << thread.mask;
  out << " at " << text(thread.site);
  return out.str();
}

// Says who waits where, threads at one place together.
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
    all += "; " + std::to_string(places[i].count) + " from thread " +
           text(places[i].first->index) + " in " + places[i].wait;
  return all;
}

std::runtime_error deadlock() {
  return std::runtime_error(where_block() + ": deadlock: " + std::to_string(machine.live) + " of " +
                            std::to_string(machine.threads.size()) +
                            " threads wait for threads that cannot arrive" + describe_waits());
}

// ---------------------------------------------------------------------------- scheduling

void push_ready(Thread& thread) {
  thread.state = State::ready;
  thread.wait = Wait::none;
  std::size_t slot = machine.ready_head + machine.ready_count;
  if (slot >= machine.ready.size()) slot -= machine.ready.size();
  machine.ready[slot] = &thread;
  ++machine.ready_count;
}

Thread& pop_ready() {
  Thread& thread = *machine.ready[machine.ready_head];
  if (++machine.ready_head == machine.ready.size()) machine.ready_head = 0;
  --machine.ready_count;
  return thread;
}

void make_current(Thread& thread) {
  machine.current = &thread;
  thread.state = State::running;
  thread.wait = Wait::none;
  coordinates.thread = thread.index;
}

void worker();

Fibre& idle_worker() {
  if (machine.idle_workers.empty()) machine.idle_workers.push_back(new_fibre(&worker));
  Fibre& fibre = *machine.idle_workers.back();
  machine.idle_workers.pop_back();
  machine.entering = &fibre;
  return fibre;
}

// Stops the running thread until someone pushes it on the ready ring.
void wait(Wait kind, Site site) {
  Thread& self = *machine.current;
  self.wait = kind;
  self.site = site;
  if (machine.ready_count == 0 && machine.started == machine.threads.size()) throw deadlock();
  if (self.state == State::running) self.state = State::waiting;
  Fibre& next = machine.ready_count > 0 ? *pop_ready().fibre : idle_worker();
  if (&next != self.fibre) switch_fibre(*self.fibre, next);
  if (machine.failed) throw Cancelled{};
  make_current(self);
}

// Runs f(lane) over the lanes in the order that the launch asked for.
template <typename F>
void for_lanes(unsigned lanes, const F& f) {
  while (lanes != 0) {
    const unsigned lane = machine.thread_order < 0
                              ? 31u - static_cast<unsigned>(__builtin_clz(lanes))
                              : static_cast<unsigned>(__builtin_ctz(lanes));
    lanes &= ~(1u << lane);
    f(lane);
  }
}

// ---------------------------------------------------------------------------- block barriers

int barrier_result() {
  const int arrived = static_cast<int>(machine.barrier_arrived);
  switch (machine.barrier_op) {
    case BlockOp::count: return machine.barrier_count;
    case BlockOp::any: return machine.barrier_count > 0;
    case BlockOp::all: return machine.barrier_count == arrived;
    default: return 0;
  }
}

void release_barrier() {
  const int result = barrier_result();
  machine.barrier_arrived = 0;
  for (unsigned linear : machine.order) {
    Thread& thread = machine.threads[linear];
    if (thread.wait != Wait::block) continue;
    thread.result = static_cast<uint64_t>(result);
    if (&thread == machine.current && thread.state == State::running)
      thread.wait = Wait::none;
    else
      push_ready(thread);
  }
}

bool same_site(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// ---------------------------------------------------------------------------- warp operations

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
    case WarpOp::add: return x + y;
    case WarpOp::minimum_signed: return static_cast<unsigned>(std::min(i, j));
    case WarpOp::minimum: return std::min(x, y);
    case WarpOp::maximum_signed: return static_cast<unsigned>(std::max(i, j));
    case WarpOp::maximum: return std::max(x, y);
    case WarpOp::bit_and: return x & y;
    case WarpOp::bit_xor: return x ^ y;
    default: return x | y;
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
    case WarpOp::ballot: return lanes & ~matching_lanes(warp, lanes, 0);
    case WarpOp::any: return matching_lanes(warp, lanes, 0) != lanes;
    case WarpOp::all: return matching_lanes(warp, lanes, 0) == 0;
    case WarpOp::match_all:
      return matching_lanes(warp, lanes, warp.operand[first]) == lanes ? lanes : 0u;
    default: break;
  }
  uint64_t total = warp.operand[first];
  for_lanes(lanes & (lanes - 1), [&](unsigned lane) { total = reduce(op, total, warp.operand[lane]); });
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
    if (&thread == machine.current && thread.state == State::running)
      thread.wait = Wait::none;
    else
      push_ready(thread);
  });
}

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

// ---------------------------------------------------------------------------- threads and workers

// What a thread that ends leaves behind may be all that the others waited for.
void end_thread(Thread& thread) {
  thread.state = State::ended;
  thread.wait = Wait::none;
  machine.current = nullptr;
  --machine.live;
  const unsigned warp = thread.linear / warp_lanes;
  machine.warps[warp].live &= ~(1u << thread.linear % warp_lanes);
  if (machine.failed) return;
  if (machine.barrier_arrived > 0 && machine.barrier_arrived == machine.live) release_barrier();
  if (machine.warps[warp].group_count > 0) complete_groups(warp);
}

void fail(std::exception_ptr error) {
  if (!machine.failed) machine.error = error;
  machine.failed = true;
}

void run_thread(Thread& thread, Fibre& fibre) {
  thread.fibre = &fibre;
  make_current(thread);
  try {
    machine.call(machine.arguments);
  } catch (const Cancelled&) {
  } catch (...) {
    fail(std::current_exception());
  }
  end_thread(thread);
}

void worker() {
  enter_fibre();
  Fibre& self = *machine.entering;
  for (;;) {
    while (!machine.failed && (machine.ready_count > 0 || machine.started < machine.order.size())) {
      if (machine.ready_count == 0) {
        run_thread(machine.threads[machine.order[machine.started++]], self);
        continue;
      }
      Fibre& next = *pop_ready().fibre;
      machine.idle_workers.push_back(&self);
      switch_fibre(self, next);
    }
    if (!machine.failed && machine.live > 0) fail(std::make_exception_ptr(deadlock()));
    machine.idle_workers.push_back(&self);
    switch_fibre(self, machine.host);
  }
}

// ---------------------------------------------------------------------------- shared memory

void fill(unsigned char* data, std::size_t bytes, uint64_t pattern) {
  for (std::size_t i = 0; i < bytes; i += sizeof(pattern))
    std::memcpy(data + i, &pattern, std::min(sizeof(pattern), bytes - i));
}

// Not the pattern of unwritten memory: copying that past an end must show too.
constexpr uint64_t margin_pattern = 0xA5C3A5C3A5C3A5C3ull;

void* place_shared(std::size_t bytes, std::size_t alignment, const char* name) {
  alignment = std::max<std::size_t>(alignment, 16);
  unsigned char* base = machine.shared.data();
  std::size_t offset = machine.shared_used + margin_bytes;
  const auto address = reinterpret_cast<std::uintptr_t>(base) + offset;
  offset += (alignment - address % alignment) % alignment;
  if (offset + bytes + margin_bytes > machine.shared.size())
    throw std::runtime_error(where_block() + ": too many shared arrays, at '" + name + "'");
  unsigned char* data = base + offset;
  ASAN_UNPOISON_MEMORY_REGION(data - margin_bytes, bytes + 2 * margin_bytes);
  fill(data - margin_bytes, margin_bytes, margin_pattern);
  fill(data, bytes, undefined_bits);
  fill(data + bytes, margin_bytes, margin_pattern);
  ASAN_POISON_MEMORY_REGION(data - margin_bytes, margin_bytes);
  ASAN_POISON_MEMORY_REGION(data + bytes, margin_bytes);
  machine.ranges.push_back({data, bytes, name});
  machine.shared_used = offset + bytes + margin_bytes;
  return data;
}

bool intact(const unsigned char* margin) {
  unsigned char expected[margin_bytes];
  fill(expected, margin_bytes, margin_pattern);
  return std::memcmp(margin, expected, margin_bytes) == 0;
}

void check_margins() {
  for (const SharedRange& range : machine.ranges) {
    ASAN_UNPOISON_MEMORY_REGION(range.low - margin_bytes, range.bytes + 2 * margin_bytes);
    const bool before = intact(range.low - margin_bytes);
    const bool after = intact(range.low + range.bytes);
    if (before && after) continue;
    throw std::runtime_error(where_block() + ": a write " + (before ? "past the end of" : "before") +
                             " shared array '" + range.name + "' of " +
                             std::to_string(range.bytes) + " bytes");
  }
}

// ---------------------------------------------------------------------------- blocks and grids

uint64_t next_random() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return machine.random;
}

template <typename T>
void arrange(std::vector<T>& sequence) {
  if (machine.thread_order == 0) return;
  if (machine.thread_order == -1) {
    std::reverse(sequence.begin(), sequence.end());
    return;
  }
  for (std::size_t i = sequence.size(); i > 1; --i)
    std::swap(sequence[i - 1], sequence[next_random() % i]);
}

void prepare_threads(dim3 extent) {
  const unsigned count = extent.x * extent.y * extent.z;
  machine.threads.assign(count, Thread{});
  machine.order.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    machine.threads[i].linear = machine.order[i] = i;
    machine.threads[i].index = {i % extent.x, i / extent.x % extent.y, i / extent.x / extent.y};
  }
  machine.warps.resize((count + warp_lanes - 1) / warp_lanes);
  machine.ready.assign(count, nullptr);
  arrange(machine.order);
}

void reset_block(std::size_t shared_bytes) {
  const auto count = static_cast<unsigned>(machine.threads.size());
  for (Thread& thread : machine.threads) {
    thread.state = State::unstarted;
    thread.wait = Wait::none;
  }
  for (std::size_t w = 0; w < machine.warps.size(); ++w) {
    const unsigned lanes = std::min(count - static_cast<unsigned>(w) * warp_lanes, warp_lanes);
    machine.warps[w].live = lanes == warp_lanes ? ~0u : (1u << lanes) - 1;
    machine.warps[w].group_count = 0;
  }
  machine.started = machine.barrier_arrived = 0;
  machine.live = count;
  machine.ready_head = machine.ready_count = 0;
  machine.fruitless_yields = 0;
  machine.failed = false;
  machine.error = nullptr;
  machine.ranges.clear();
  machine.shared_used = 0;
  machine.dynamic_bytes = shared_bytes;
  ++block_serial;
  machine.dynamic_data =
      static_cast<unsigned char*>(place_shared(shared_bytes, 128, "dynamic shared memory"));
}

void unwind_waiting_threads() {
  for (Thread& thread : machine.threads)
    if (thread.state == State::waiting || thread.state == State::ready) {
      machine.current = &thread;
      switch_fibre(machine.host, *thread.fibre);
    }
}

void run_block(uint3 index, std::size_t shared_bytes) {
  coordinates.block = index;
  reset_block(shared_bytes);
  switch_fibre(machine.host, idle_worker());
  if (machine.failed) unwind_waiting_threads();
  machine.current = nullptr;
  if (machine.error) std::rethrow_exception(std::exchange(machine.error, nullptr));
  check_margins();
}

void check_launch(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error(std::string("emulated kernel ") + name + ": cannot launch: " + what);
  };
  if (machine.current != nullptr) refuse("a kernel cannot launch another");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64)
    refuse("expected a block of 1 to 1024 threads, got " + text(uint3(block)));
  if (grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu)
    refuse("expected a grid within (2^31 - 1, 65535, 65535), got " + text(uint3(grid)));
  if (shared_bytes > shared_limit)
    refuse("expected at most " + std::to_string(shared_limit) + " bytes of dynamic shared memory, got " +
           std::to_string(shared_bytes));
}

void run_blocks(dim3 grid, std::size_t shared_bytes) {
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  const auto run_one = [&](uint64_t i) {
    run_block({static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
               static_cast<unsigned>(i / grid.x / grid.y)},
              shared_bytes);
  };
  if (machine.thread_order == 0) {
    for (uint64_t i = 0; i < count; ++i) run_one(i);
    return;
  }
  std::vector<uint64_t> sequence(count);
  for (uint64_t i = 0; i < count; ++i) sequence[i] = i;
  arrange(sequence);
  for (uint64_t i : sequence) run_one(i);
}

}  // namespace

// ---------------------------------------------------------------------------- what kernels call

int block_barrier(BlockOp op, int predicate, Site site) {
  Thread& self = *machine.current;
  if (machine.barrier_arrived == 0) {
    machine.barrier_op = op;
    machine.barrier_site = site;
    machine.barrier_count = 0;
  } else if (op != machine.barrier_op || !same_site(site, machine.barrier_site)) {
    self.wait = Wait::block;
    self.block_op = op;
    self.site = site;
    throw std::runtime_error(where_thread() + "divergent barrier: the threads of a block are at different ones" +
                             describe_waits());
  }
  ++machine.barrier_arrived;
  machine.barrier_count += predicate != 0;
  self.wait = Wait::block;
  self.block_op = op;
  if (machine.barrier_arrived == machine.live)
    release_barrier();
  else
    wait(Wait::block, site);
  return static_cast<int>(self.result);
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

void yield_thread(Site site) {
  if (++machine.fruitless_yields > fruitless_yields_limit)
    throw std::runtime_error(where_thread() + "livelock: " + std::to_string(fruitless_yields_limit) +
                             " times __nanosleep at " + text(site) + " without an end");
  push_ready(*machine.current);
  wait(Wait::yield, site);
}

void fail_out_of_bounds(const char* name, long long index, unsigned long long count) {
  throw std::runtime_error(where_thread() + "shared array '" + name + "' of " +
                           std::to_string(count) + " indexed with " + std::to_string(index));
}

void fail_trap() { throw std::runtime_error(where_thread() + "__trap"); }

void* allocate_shared(std::size_t bytes, std::size_t alignment, const char* name) {
  std::size_t total = bytes;
  for (std::size_t i = 1; i < machine.ranges.size(); ++i) total += machine.ranges[i].bytes;
  if (total > static_shared_limit || total + machine.dynamic_bytes > shared_limit)
    throw std::runtime_error(where_thread() + "shared array '" + name + "' brings static shared memory to " +
                             std::to_string(total) + " bytes beside " +
                             std::to_string(machine.dynamic_bytes) + " dynamic; the limits are " +
                             std::to_string(static_shared_limit) + " static and " +
                             std::to_string(shared_limit) + " in all");
  return place_shared(bytes, alignment, name);
}

void* dynamic_shared(std::size_t* bytes) {
  *bytes = machine.dynamic_bytes;
  return machine.dynamic_data;
}

void set_thread_order(int64_t order) { machine.thread_order = order; }

void run_grid(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes,
              void (*call)(void*), void* arguments) {
  static std::recursive_mutex one_launch;
  const std::lock_guard<std::recursive_mutex> lock(one_launch);
  check_launch(name, grid, block, shared_bytes);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  machine.kernel = name;
  machine.call = call;
  machine.arguments = arguments;
  machine.random = static_cast<uint64_t>(machine.thread_order) * 0x9E3779B97F4A7C15ull | 1u;
  // Room for the largest launch with a margin around each of many arrays.
  machine.shared.resize(shared_limit + 1024 * margin_bytes);
  coordinates.block_extent = block;
  coordinates.grid_extent = grid;
  prepare_threads(block);
  run_blocks(grid, shared_bytes);
}

}  // namespace emulate
}  // namespace fl
