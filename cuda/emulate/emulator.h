// SPDX-License-Identifier: Apache-2.0
//
// The CUDA execution model on one CPU thread, for tests. The .cu files compile unchanged with g++;
// this header supplies what nvcc would.
//
// How a kernel runs
//   Blocks run one after another. Inside a block, threads start in order and each runs until it
//   waits (a barrier, a warp operation) or ends. A thread that never waits costs a function call.
//   One that waits keeps its stack (a fibre) and the next thread goes on; the last to arrive at a
//   barrier or warp operation releases the others. One launch runs at a time in the process.
//
// What is guaranteed
//   - Warp operations follow their masks: they wait for every thread named in the mask that has
//     not ended, whatever code each comes from, and move values as the hardware does. Reading a
//     lane that does not take part gives the pattern 0x7FFDCDCD, a NaN.
//   - Shared memory holds that pattern at the start of each block, so what is read before it is
//     written shows. Indexing a shared array is checked; bytes around each array are checked for
//     stray writes through pointers when the block ends (with AddressSanitizer: at once).
//   - Every error is a std::runtime_error out of FL_LAUNCH that names kernel, block and thread:
//     a wait that can never end (with who waits where), threads of one block at different
//     __syncthreads, a mask without its caller, shared memory out of bounds or over what every
//     supported GPU has (48 KiB static, 99 KiB in all), a launch no GPU accepts. The fibres are
//     unwound first: destructors run, and the next launch starts clean.
//   - Same result every run. set_thread_order() runs threads and blocks backwards or shuffled:
//     a kernel whose result then changes lacks a barrier.
//
// What is not: atomics are plain operations, weak memory order and races between blocks do not
// show, and a thread that spins until another has written hangs, unless it spins on __nanosleep.
// __activemask() names the caller alone: all that CUDA promises.
#pragma once

#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulate/vector_types.h"

namespace fl {
namespace emulate {

// Where in the source a thread waits.
struct Site {
  const char* file;
  int line;
};

// The coordinates that the running thread sees.
struct Coordinates {
  uint3 thread, block;
  dim3 block_extent, grid_extent;
};
extern Coordinates coordinates;

enum class BlockOp : uint8_t { barrier, count, any, all };

enum class WarpOp : uint8_t {
  barrier,
  ballot,
  any,
  all,
  match_any,
  match_all,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  add,
  minimum_signed,
  minimum,
  maximum_signed,
  maximum,
  bit_and,
  bit_or,
  bit_xor,
};

int block_barrier(BlockOp op, int predicate, Site site);
// `parameter` is the lane, distance or lane mask of a shuffle.
uint64_t warp_operation(WarpOp op, unsigned mask, uint64_t operand, int parameter, int width,
                        Site site);
unsigned lane_index();
void yield_thread(Site site);
[[noreturn]] void fail_out_of_bounds(const char* name, long long index, unsigned long long count);
[[noreturn]] void fail_trap();

// 0: ascending, -1: descending, any other value: shuffled by that seed.
void set_thread_order(int64_t order);

void run_grid(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes,
              void (*call)(void*), void* arguments);

template <typename... Parameters, typename... Arguments>
void run(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
         std::size_t shared_bytes, Arguments&&... arguments) {
  using Values = std::tuple<std::decay_t<Parameters>...>;
  struct Call {
    void (*kernel)(Parameters...);
    Values values;
  } call{kernel, Values(std::forward<Arguments>(arguments)...)};
  run_grid(
      name, grid, block, shared_bytes,
      [](void* data) {
        auto& c = *static_cast<Call*>(data);
        std::apply(c.kernel, c.values);
      },
      &call);
}

// One per shared array in the source; says where the array lies in the block that runs now.
struct SharedSlot {
  uint64_t block_serial = 0;
  void* data = nullptr;
};

extern uint64_t block_serial;
void* allocate_shared(std::size_t bytes, std::size_t alignment, const char* name);
void* dynamic_shared(std::size_t* bytes);

inline void* shared_data(SharedSlot& slot, std::size_t bytes, std::size_t alignment,
                         const char* name) {
  if (slot.block_serial != block_serial) {
    slot.data = allocate_shared(bytes, alignment, name);
    slot.block_serial = block_serial;
  }
  return slot.data;
}

// Stands for `T name[N]`. operator[] is a template so that it beats the built-in one that the
// conversion to T* also offers.
template <typename T, std::size_t N>
struct SharedArray {
  T* data;
  const char* name;

  template <typename I>
  T& operator[](I index) const {
    if (static_cast<unsigned long long>(index) >= N)
      fail_out_of_bounds(name, static_cast<long long>(index), N);
    return data[index];
  }
  operator T*() const { return data; }
};

template <typename T, std::size_t M, std::size_t N>
struct SharedArray2D {
  T* data;
  const char* name;

  template <typename I>
  SharedArray<T, N> operator[](I row) const {
    if (static_cast<unsigned long long>(row) >= M)
      fail_out_of_bounds(name, static_cast<long long>(row), M);
    return {data + static_cast<std::size_t>(row) * N, name};
  }
};

template <typename T>
struct DynamicArray {
  T* data;
  std::size_t count;
  const char* name;

  template <typename I>
  T& operator[](I index) const {
    if (static_cast<unsigned long long>(index) >= count)
      fail_out_of_bounds(name, static_cast<long long>(index), count);
    return data[index];
  }
  operator T*() const { return data; }
};

template <typename T, std::size_t N>
SharedArray<T, N> shared_array(SharedSlot& slot, const char* name) {
  return {static_cast<T*>(shared_data(slot, sizeof(T) * N, alignof(T), name)), name};
}

template <typename T, std::size_t M, std::size_t N>
SharedArray2D<T, M, N> shared_array_2d(SharedSlot& slot, const char* name) {
  return {static_cast<T*>(shared_data(slot, sizeof(T) * M * N, alignof(T), name)), name};
}

template <typename T>
DynamicArray<T> dynamic_array(const char* name) {
  std::size_t bytes = 0;
  T* data = static_cast<T*>(dynamic_shared(&bytes));
  return {data, bytes / sizeof(T), name};
}

template <typename T>
T shuffle(WarpOp op, unsigned mask, T value, int parameter, int width, Site site) {
  static_assert(std::is_arithmetic<T>::value && sizeof(T) <= 8,
                "shuffle: expected an integer, float or double");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_operation(op, mask, bits, parameter, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
unsigned match(WarpOp op, unsigned mask, T value, Site site) {
  static_assert(std::is_arithmetic<T>::value && sizeof(T) <= 8,
                "match: expected an integer, float or double");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return static_cast<unsigned>(warp_operation(op, mask, bits, 0, 32, site));
}

}  // namespace emulate
}  // namespace fl

// Macros and not objects: a source may then name these inside any namespace, as with nvcc.
#define threadIdx (::fl::emulate::coordinates.thread)
#define blockIdx (::fl::emulate::coordinates.block)
#define blockDim (::fl::emulate::coordinates.block_extent)
#define gridDim (::fl::emulate::coordinates.grid_extent)

static constexpr int warpSize = 32;

// The caller's place in the source: default arguments are evaluated where the call stands.
#define FL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define FL_HERE \
  ::fl::emulate::Site { file, line }

static inline void __syncthreads(FL_SITE) {
  fl::emulate::block_barrier(fl::emulate::BlockOp::barrier, 0, FL_HERE);
}
static inline int __syncthreads_count(int predicate, FL_SITE) {
  return fl::emulate::block_barrier(fl::emulate::BlockOp::count, predicate, FL_HERE);
}
static inline int __syncthreads_or(int predicate, FL_SITE) {
  return fl::emulate::block_barrier(fl::emulate::BlockOp::any, predicate, FL_HERE);
}
static inline int __syncthreads_and(int predicate, FL_SITE) {
  return fl::emulate::block_barrier(fl::emulate::BlockOp::all, predicate, FL_HERE);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, FL_SITE) {
  fl::emulate::warp_operation(fl::emulate::WarpOp::barrier, mask, 0, 0, 32, FL_HERE);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, FL_SITE) {
  return fl::emulate::shuffle(fl::emulate::WarpOp::shuffle, mask, value, lane, width, FL_HERE);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FL_SITE) {
  return fl::emulate::shuffle(fl::emulate::WarpOp::shuffle_up, mask, value, static_cast<int>(delta),
                              width, FL_HERE);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FL_SITE) {
  return fl::emulate::shuffle(fl::emulate::WarpOp::shuffle_down, mask, value,
                              static_cast<int>(delta), width, FL_HERE);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, FL_SITE) {
  return fl::emulate::shuffle(fl::emulate::WarpOp::shuffle_xor, mask, value, lane_mask, width,
                              FL_HERE);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, FL_SITE) {
  return static_cast<unsigned>(fl::emulate::warp_operation(fl::emulate::WarpOp::ballot, mask,
                                                           predicate != 0, 0, 32, FL_HERE));
}
static inline int __any_sync(unsigned mask, int predicate, FL_SITE) {
  return static_cast<int>(
      fl::emulate::warp_operation(fl::emulate::WarpOp::any, mask, predicate != 0, 0, 32, FL_HERE));
}
static inline int __all_sync(unsigned mask, int predicate, FL_SITE) {
  return static_cast<int>(
      fl::emulate::warp_operation(fl::emulate::WarpOp::all, mask, predicate != 0, 0, 32, FL_HERE));
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, FL_SITE) {
  return fl::emulate::match(fl::emulate::WarpOp::match_any, mask, value, FL_HERE);
}
template <typename T>
unsigned __match_all_sync(unsigned mask, T value, int* all, FL_SITE) {
  const unsigned found = fl::emulate::match(fl::emulate::WarpOp::match_all, mask, value, FL_HERE);
  *all = found != 0;
  return found;
}

#define FL_WARP_REDUCE(name, type, op)                                                 \
  static inline type name(unsigned mask, type value, FL_SITE) {                        \
    return static_cast<type>(fl::emulate::warp_operation(                              \
        fl::emulate::WarpOp::op, mask, static_cast<uint64_t>(value), 0, 32, FL_HERE)); \
  }
FL_WARP_REDUCE(__reduce_add_sync, int, add)
FL_WARP_REDUCE(__reduce_add_sync, unsigned, add)
FL_WARP_REDUCE(__reduce_min_sync, int, minimum_signed)
FL_WARP_REDUCE(__reduce_min_sync, unsigned, minimum)
FL_WARP_REDUCE(__reduce_max_sync, int, maximum_signed)
FL_WARP_REDUCE(__reduce_max_sync, unsigned, maximum)
FL_WARP_REDUCE(__reduce_and_sync, unsigned, bit_and)
FL_WARP_REDUCE(__reduce_or_sync, unsigned, bit_or)
FL_WARP_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef FL_WARP_REDUCE

static inline void __nanosleep(unsigned, FL_SITE) { fl::emulate::yield_thread(FL_HERE); }
static inline unsigned __activemask() { return 1u << fl::emulate::lane_index(); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
[[noreturn]] static inline void __trap() { fl::emulate::fail_trap(); }

#undef FL_SITE
#undef FL_HERE

// clang-format off
template <typename T> T __ldg(const T* pointer) { return *pointer; }
template <typename T> T __ldcg(const T* pointer) { return *pointer; }
template <typename T> T __ldcs(const T* pointer) { return *pointer; }
template <typename T> void __stcg(T* pointer, T value) { *pointer = value; }
template <typename T> void __stcs(T* pointer, T value) { *pointer = value; }

// The types are those CUDA has, so that what compiles here compiles there.
#define FL_ATOMIC(name, type, result)                            \
  static inline type name(type* address, type value) {           \
    const type old = *address;                                   \
    *address = static_cast<type>(result);                        \
    return old;                                                  \
  }
FL_ATOMIC(atomicAdd, int, static_cast<unsigned>(old) + static_cast<unsigned>(value))
FL_ATOMIC(atomicAdd, unsigned, old + value)
FL_ATOMIC(atomicAdd, unsigned long long, old + value)
FL_ATOMIC(atomicAdd, float, old + value)
FL_ATOMIC(atomicAdd, double, old + value)
FL_ATOMIC(atomicSub, int, static_cast<unsigned>(old) - static_cast<unsigned>(value))
FL_ATOMIC(atomicSub, unsigned, old - value)
FL_ATOMIC(atomicMin, int, old < value ? old : value)
FL_ATOMIC(atomicMin, unsigned, old < value ? old : value)
FL_ATOMIC(atomicMin, long long, old < value ? old : value)
FL_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
FL_ATOMIC(atomicMax, int, old > value ? old : value)
FL_ATOMIC(atomicMax, unsigned, old > value ? old : value)
FL_ATOMIC(atomicMax, long long, old > value ? old : value)
FL_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
FL_ATOMIC(atomicAnd, int, old & value)
FL_ATOMIC(atomicAnd, unsigned, old & value)
FL_ATOMIC(atomicAnd, unsigned long long, old & value)
FL_ATOMIC(atomicOr, int, old | value)
FL_ATOMIC(atomicOr, unsigned, old | value)
FL_ATOMIC(atomicOr, unsigned long long, old | value)
FL_ATOMIC(atomicXor, int, old ^ value)
FL_ATOMIC(atomicXor, unsigned, old ^ value)
FL_ATOMIC(atomicXor, unsigned long long, old ^ value)
FL_ATOMIC(atomicExch, int, value)
FL_ATOMIC(atomicExch, unsigned, value)
FL_ATOMIC(atomicExch, unsigned long long, value)
FL_ATOMIC(atomicExch, float, value)
FL_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
FL_ATOMIC(atomicDec, unsigned, old == 0u || old > value ? value : old - 1u)
#undef FL_ATOMIC

#define FL_ATOMIC_CAS(type)                                                    \
  static inline type atomicCAS(type* address, type compare, type value) {      \
    const type old = *address;                                                 \
    if (old == compare) *address = value;                                      \
    return old;                                                                \
  }
FL_ATOMIC_CAS(int)
FL_ATOMIC_CAS(unsigned)
FL_ATOMIC_CAS(unsigned long long)
FL_ATOMIC_CAS(unsigned short)
#undef FL_ATOMIC_CAS
// clang-format on
