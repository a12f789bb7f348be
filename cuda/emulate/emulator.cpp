// SPDX-License-Identifier: Apache-2.0
//
// Launches: the threads of a block, the blocks of a grid, and their order.
#include "emulate/emulator.h"

#include <algorithm>
#include <mutex>

#include "emulate/machine.h"

namespace fl {
namespace emulate {

namespace {

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
  reset_shared_memory(shared_bytes);
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
    refuse("expected at most " + std::to_string(shared_limit) +
           " bytes of dynamic shared memory, got " + std::to_string(shared_bytes));
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

void set_thread_order(int64_t order) { machine.thread_order = order; }

void run_grid(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes,
              void (*call)(void*), void* arguments) {
  static std::recursive_mutex one_launch;
  const std::lock_guard<std::recursive_mutex> lock(one_launch);
  check_launch(name, grid, block, shared_bytes);
  machine.kernel = name;
  machine.call = call;
  machine.arguments = arguments;
  machine.random = static_cast<uint64_t>(machine.thread_order) * 0x9E3779B97F4A7C15ull | 1u;
  coordinates.block_extent = block;
  coordinates.grid_extent = grid;
  prepare_threads(block);
  run_blocks(grid, shared_bytes);
}

}  // namespace emulate
}  // namespace fl
