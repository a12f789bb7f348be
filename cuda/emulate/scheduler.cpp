// SPDX-License-Identifier: Apache-2.0
//
// Which thread runs next, and block barriers. Control always passes straight from the worker that
// stops to the one that goes on.
#include <cstring>

#include "emulate/machine.h"

namespace fl {
namespace emulate {

Coordinates coordinates{};
Machine machine;

namespace {

constexpr uint64_t fruitless_yields_limit = 1000000;

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

}  // namespace

Fibre& idle_worker() {
  if (machine.idle_workers.empty()) machine.idle_workers.push_back(new_fibre(&worker));
  Fibre& fibre = *machine.idle_workers.back();
  machine.idle_workers.pop_back();
  machine.entering = &fibre;
  return fibre;
}

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

void wake(Thread& thread) {
  if (&thread == machine.current && thread.state == State::running)
    thread.wait = Wait::none;
  else
    push_ready(thread);
}

namespace {

int barrier_result() {
  const int arrived = static_cast<int>(machine.barrier_arrived);
  switch (machine.barrier_op) {
    case BlockOp::count:
      return machine.barrier_count;
    case BlockOp::any:
      return machine.barrier_count > 0;
    case BlockOp::all:
      return machine.barrier_count == arrived;
    default:
      return 0;
  }
}

void release_barrier() {
  const int result = barrier_result();
  machine.barrier_arrived = 0;
  for (unsigned linear : machine.order) {
    Thread& thread = machine.threads[linear];
    if (thread.wait != Wait::block) continue;
    thread.result = static_cast<uint64_t>(result);
    wake(thread);
  }
}

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

bool same_site(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

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
    throw std::runtime_error(where_thread() +
                             "divergent barrier: the threads of a block are at different ones" +
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

void yield_thread(Site site) {
  if (++machine.fruitless_yields > fruitless_yields_limit)
    throw std::runtime_error(where_thread() +
                             "livelock: " + std::to_string(fruitless_yields_limit) +
                             " times __nanosleep at " + text(site) + " without an end");
  push_ready(*machine.current);
  wait(Wait::yield, site);
}

}  // namespace emulate
}  // namespace fl
