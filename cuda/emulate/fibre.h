// SPDX-License-Identifier: Apache-2.0
//
// Fibres: stacks that take turns on one host thread. A switch saves the six registers that x86-64
// calls must preserve and swaps the stack pointer; other processors use ucontext. Stacks come from
// a pool, are never returned, and end in a guard page: an overflow is a crash, not a corruption.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define FL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FL_ASAN 1
#endif
#endif

namespace fl {
namespace emulate {

struct Fibre {
  void* stack_pointer = nullptr;  // where it stopped (a ucontext_t* on other processors)
  const void* stack_low = nullptr;
  std::size_t stack_bytes = 0;
  void* sanitizer_stack = nullptr;
};

// A fibre that will call `entry`, which never returns.
Fibre* new_fibre(void (*entry)());

// Stops `from`, which is running, and continues `to` where it stopped.
void switch_fibre(Fibre& from, Fibre& to);

// The first act of `entry`.
void enter_fibre();

}  // namespace emulate
}  // namespace fl
