// SPDX-License-Identifier: Apache-2.0
//
// The emulator's inside: the records that the scheduler, the warp operations, shared memory and the
// error texts work on.
//   host    the caller of FL_LAUNCH, which starts blocks and gathers errors
//   worker  a pooled stack that runs threads of the block one after another, as long as they do
//           not wait; a thread that waits keeps the worker it is on
//   thread  a CUDA thread's record: where it waits, for what, and the result it will wake up with
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulate/emulator.h"
#include "emulate/fibre.h"

namespace fl {
namespace emulate {

constexpr unsigned warp_lanes = 32;
constexpr uint64_t undefined_bits = 0x7FFDCDCD7FFDCDCDull;

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
extern Machine machine;

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

// scheduler.cpp
Fibre& idle_worker();             // a worker that will take the next thread of the block
void wait(Wait kind, Site site);  // stops the running thread until wake() is called for it
void wake(Thread& thread);        // lets it go on with its result

// warp.cpp
void complete_groups(unsigned warp_index);  // those that a thread's end has left complete

// shared_memory.cpp
constexpr std::size_t static_shared_limit = 48 * 1024;
constexpr std::size_t shared_limit = 99 * 1024;
void reset_shared_memory(std::size_t dynamic_bytes);
void check_margins();  // throws if bytes beside an array were written

// report.cpp
std::string text(uint3 v);
std::string text(Site site);
std::string name_of(WarpOp op);
std::string where_block();     // "emulated kernel k, block (0, 0, 0)"
std::string where_thread();    // the same with the running thread, and ": "
std::string describe_waits();  // who waits where
std::runtime_error deadlock();

}  // namespace emulate
}  // namespace fl
