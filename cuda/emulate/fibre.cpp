// SPDX-License-Identifier: Apache-2.0
#include "emulate/fibre.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#if !defined(__x86_64__) || defined(FL_EMULATE_UCONTEXT)
#include <ucontext.h>
#define FL_SWITCH_UCONTEXT
#endif

#ifdef FL_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef FL_SWITCH_UCONTEXT
extern "C" void fl_emulate_switch(void** save, void* load);

// The floating-point control words are not saved: kernels do not change them.
asm(R"(
.text
.p2align 4
.hidden fl_emulate_switch
.globl fl_emulate_switch
.type fl_emulate_switch, @function
fl_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fl_emulate_switch, .-fl_emulate_switch
)");
#endif

namespace fl {
namespace emulate {
namespace {

constexpr std::size_t page_bytes = 4096;
constexpr std::size_t stack_bytes = 64 * page_bytes;
constexpr std::size_t stacks_per_slab = 32;

#ifdef FL_ASAN
// Both ends of the switch under way. The sanitizer tells the fibre that arrives the bounds of the
// stack it came from: so the host thread's, which may be another one each launch, become known.
Fibre* leaving = nullptr;
Fibre* arriving = nullptr;
#endif

// Stacks an exact power of two apart would fight for the same lines of every cache: the guard page
// makes the distance odd in pages, and `colour` spreads the tops inside the page.
char* new_stack(std::size_t index) {
  static char* slab = nullptr;
  constexpr std::size_t stride = stack_bytes + page_bytes;
  if (index % stacks_per_slab == 0) {
    void* memory = mmap(nullptr, stride * stacks_per_slab, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    slab = static_cast<char*>(memory);
  }
  char* guard = slab + index % stacks_per_slab * stride;
  if (mprotect(guard, page_bytes, PROT_NONE) != 0) throw std::bad_alloc();
  return guard + page_bytes;
}

}  // namespace

Fibre* new_fibre(void (*entry)()) {
  static std::size_t count = 0;
  char* low = new_stack(count);
  const std::size_t colour = count % 16 * 256;
  ++count;
  auto* fibre = new Fibre;
  fibre->stack_low = low;
  fibre->stack_bytes = stack_bytes;
#ifdef FL_SWITCH_UCONTEXT
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = low;
  context->uc_stack.ss_size = stack_bytes - colour;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fibre->stack_pointer = context;
#else
  // Seen by the entry: a null return address, at which debuggers and unwinders stop.
  void** top = reinterpret_cast<void**>(low + stack_bytes - colour) - 1;
  top[0] = nullptr;
  top[-1] = reinterpret_cast<void*>(entry);
  constexpr int saved_registers = 6;
  std::memset(top - 1 - saved_registers, 0, saved_registers * sizeof(void*));
  fibre->stack_pointer = top - 1 - saved_registers;
#endif
  return fibre;
}

void enter_fibre() {
#ifdef FL_ASAN
  const void* low = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(arriving->sanitizer_stack, &low, &bytes);
  leaving->stack_low = low;
  leaving->stack_bytes = bytes;
#endif
}

void switch_fibre(Fibre& from, Fibre& to) {
#ifdef FL_ASAN
  leaving = &from;
  arriving = &to;
  __sanitizer_start_switch_fiber(&from.sanitizer_stack, to.stack_low, to.stack_bytes);
#endif
#ifdef FL_SWITCH_UCONTEXT
  if (from.stack_pointer == nullptr) from.stack_pointer = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.stack_pointer),
              static_cast<ucontext_t*>(to.stack_pointer));
#else
  fl_emulate_switch(&from.stack_pointer, to.stack_pointer);
#endif
  enter_fibre();
}

}  // namespace emulate
}  // namespace fl
