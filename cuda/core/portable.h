// SPDX-License-Identifier: Apache-2.0
//
// What every kernel and every piece of shared maths is written in. One source, three compiles:
//
//   nvcc               FL_HD is __host__ __device__, FL_LAUNCH is <<<>>> with error checks
//   g++                CPU sources: vector types and scalar intrinsics exist, nothing else
//   g++ -DFL_EMULATE   the .cu files themselves: threads are fibres (emulate/emulator.h)
//
// Rules for kernels
//   FL_HD float f(...)                      maths for host and device (core/macros.h)
//   FL_D float g(...)                       device only: may use threadIdx, barriers, atomics
//   template <typename T>
//   FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) my_kernel(const T* FL_RESTRICT x, int64_t n) {
//     FL_SHARED(T, tile, 256);              static, 16-byte aligned; FL_SHARED_2D(T, t, 16, 17)
//     FL_DYNAMIC_SHARED(float, scratch);    the bytes that FL_LAUNCH was given
//   }
//   FL_LAUNCH((my_kernel<float>), blocks, 256, shared_bytes, stream, x, n);
//
// Shared arrays index and decay to pointers (`tile[i]`, `tile + i`, `T* p = tile`); where a
// template deduces T* or a cast needs a pointer, write `&tile[0]`: in the emulator they are
// checked objects. A kernel that needs commas in T names the type with `using` first.
// FL_HD and FL_D contain `inline`. Grid and block are dim3 or any integer; a grid with a zero
// extent launches nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "core/macros.h"

#if defined(FL_EMULATE) && defined(__CUDACC__)
#error "FL_EMULATE compiles kernels with a host compiler, not with nvcc"
#endif

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <map>
#include <mutex>

#ifdef USE_CUDA
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#endif

#define FL_D __device__ inline
#define FL_KERNEL __global__ void
#define FL_LAUNCH_BOUNDS(threads, min_blocks) __launch_bounds__(threads, min_blocks)
#define FL_UNROLL _Pragma("unroll")
#define FL_SHARED(T, name, N) __shared__ alignas(alignof(T) > 16 ? alignof(T) : 16) T name[N]
#define FL_SHARED_2D(T, name, M, N) \
  __shared__ alignas(alignof(T) > 16 ? alignof(T) : 16) T name[M][N]
// Every kernel sees the same bytes under one type, so that kernels of different T can share a file.
#define FL_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char fl_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(fl_dynamic_shared)

#else

#include "emulate/intrinsics.h"
#include "emulate/vector_types.h"

#define FL_D inline
#define FL_UNROLL

#ifdef FL_EMULATE
#include "emulate/emulator.h"

#define FL_KERNEL void
#define FL_LAUNCH_BOUNDS(threads, min_blocks)
#define FL_SHARED(T, name, N)                      \
  static ::fl::emulate::SharedSlot fl_slot_##name; \
  const auto name = ::fl::emulate::shared_array<T, (N)>(fl_slot_##name, #name)
#define FL_SHARED_2D(T, name, M, N)                \
  static ::fl::emulate::SharedSlot fl_slot_##name; \
  const auto name = ::fl::emulate::shared_array_2d<T, (M), (N)>(fl_slot_##name, #name)
#define FL_DYNAMIC_SHARED(T, name) const auto name = ::fl::emulate::dynamic_array<T>(#name)
#endif

#endif

#define FL_RESTRICT __restrict__

// The stream is the first of the variable arguments, so that a kernel may have no parameters.
#define FL_LAUNCH(kernel, grid, block, shared_bytes, ...) \
  ::fl::launch(#kernel, kernel, grid, block, shared_bytes, __VA_ARGS__)

#if defined(__CUDACC__) || defined(FL_EMULATE)
namespace fl {

// A grid or block size: dim3 as it is, any integer checked before it is narrowed.
struct Extent {
  dim3 value;

  Extent(dim3 extent) : value(extent) {}

  template <typename I, typename = std::enable_if_t<std::is_integral<I>::value>>
  Extent(I count) : value(1) {
    const int64_t wide = static_cast<int64_t>(count);
    if (wide < 0 || wide > std::numeric_limits<int32_t>::max())
      throw std::runtime_error("FL_LAUNCH: expected an extent in [0, 2^31), got " +
                               std::to_string(count));
    value.x = static_cast<unsigned>(wide);
  }

  bool empty() const { return value.x == 0 || value.y == 0 || value.z == 0; }
};

#if defined(__CUDACC__)

using Stream = cudaStream_t;

inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // Forgotten here, or the next launch would be blamed for it.
  throw std::runtime_error(std::string(what) + ": CUDA error: " + cudaGetErrorString(status));
}

#ifdef USE_CUDA
// torch's current stream: work on it is ordered with torch's own.
inline Stream current_stream(int32_t device_index) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device_index, &stream) != 0)
    throw std::runtime_error("torch has no CUDA stream for device " + std::to_string(device_index));
  return static_cast<Stream>(stream);
}
#endif

inline void check_launch(cudaError_t status, const char* name, dim3 grid, dim3 block,
                         std::size_t shared_bytes) {
  if (status == cudaSuccess) return;
  const auto text = [](dim3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) +
           ")";
  };
  const std::string what = std::string("kernel ") + name + ", grid " + text(grid) + ", block " +
                           text(block) + ", " + std::to_string(shared_bytes) +
                           " bytes of dynamic shared memory";
  check_cuda(status, what.c_str());
}

// Asks for a kernel's dynamic shared memory, which costs as much as a launch, once for each size
// that is the largest so far on a device. What was granted is never taken back: a launch on another
// thread may count on it.
inline cudaError_t allow_shared(const void* kernel, std::size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, std::size_t> granted;
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  const std::lock_guard<std::mutex> lock(mutex);
  std::size_t& most = granted[{kernel, device}];
  if (bytes <= most) return cudaSuccess;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(bytes));
  if (status == cudaSuccess) most = bytes;
  return status;
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), Extent grid, Extent block,
            std::size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  if (grid.empty()) return;
  // Without asking a block gets 48 KB, of which arrays of a fixed size take their part.
  constexpr std::size_t unasked_shared_bytes = 8 * 1024;
  cudaError_t status = cudaSuccess;
  if (shared_bytes > unasked_shared_bytes)
    status = allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (status == cudaSuccess) {
    kernel<<<grid.value, block.value, shared_bytes, stream>>>(
        std::forward<Arguments>(arguments)...);
    status = cudaGetLastError();
  }
  check_launch(status, name, grid.value, block.value, shared_bytes);
}

inline void zero_async(void* pointer, std::size_t bytes, Stream stream) {
  if (bytes > 0) check_cuda(cudaMemsetAsync(pointer, 0, bytes, stream), "zero_async");
}

// Returns when the bytes have arrived.
inline void copy_to_host(void* target, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream),
             "copy_to_host");
  check_cuda(cudaStreamSynchronize(stream), "copy_to_host");
}

// Bytes on their way to the host. Work queued after the constructor runs on while `wait` waits for
// the bytes alone.
class PendingRead {
 public:
  PendingRead(const void* source, std::size_t bytes, Stream stream) : bytes_(bytes) {
    if (bytes > kMostBytes) throw std::runtime_error("PendingRead: expected at most 64 bytes");
    void* place = landing();
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "PendingRead");
    cudaError_t status = cudaMemcpyAsync(place, source, bytes, cudaMemcpyDeviceToHost, stream);
    if (status == cudaSuccess) status = cudaEventRecord(event_, stream);
    if (status != cudaSuccess) cudaEventDestroy(event_);
    check_cuda(status, "PendingRead");
  }
  // Waits, lest bytes that nobody took land on the next read's.
  ~PendingRead() {
    cudaEventSynchronize(event_);
    cudaEventDestroy(event_);
  }
  PendingRead(const PendingRead&) = delete;
  PendingRead& operator=(const PendingRead&) = delete;

  void wait(void* target) {
    check_cuda(cudaEventSynchronize(event_), "PendingRead");
    std::memcpy(target, landing(), bytes_);
  }

 private:
  static constexpr std::size_t kMostBytes = 64;

  // Page-locked memory, without which the copy itself would wait. One read a thread at a time.
  static void* landing() {
    struct Page {
      void* place = nullptr;
      ~Page() { cudaFreeHost(place); }
    };
    static thread_local Page page;
    if (page.place == nullptr) check_cuda(cudaMallocHost(&page.place, kMostBytes), "PendingRead");
    return page.place;
  }

  std::size_t bytes_;
  cudaEvent_t event_ = nullptr;
};

inline int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "current_device");
  return device;
}

inline int device_sm_count() {
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, current_device()),
             "device_sm_count");
  return count;
}

#else

using Stream = int;

inline Stream current_stream(int32_t) { return 0; }

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), Extent grid, Extent block,
            std::size_t shared_bytes, Stream, Arguments&&... arguments) {
  if (grid.empty()) return;
  emulate::run(name, kernel, grid.value, block.value, shared_bytes,
               std::forward<Arguments>(arguments)...);
}

inline void zero_async(void* pointer, std::size_t bytes, Stream) {
  if (bytes > 0) std::memset(pointer, 0, bytes);
}

inline void copy_to_host(void* target, const void* source, std::size_t bytes, Stream) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

class PendingRead {
 public:
  PendingRead(const void* source, std::size_t bytes, Stream) : source_(source), bytes_(bytes) {}
  void wait(void* target) { std::memcpy(target, source_, bytes_); }

 private:
  const void* source_;
  std::size_t bytes_;
};

inline int current_device() { return 0; }

// Few, so that loops over blocks per multiprocessor stay short, and more than one.
inline int device_sm_count() { return 3; }

#endif

}  // namespace fl
#endif
