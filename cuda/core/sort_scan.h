// SPDX-License-Identifier: Apache-2.0
//
// Sort, scan, reduce and compact behind one interface.
//
//   in .cu files    fl::sort_pairs(..., stream)    CUB; in the emulated build the CPU versions
//   on the CPU      fl::cpu::sort_pairs(...)       threaded (sort_scan_cpu.h)
//
//   sort_pairs       stable, ascending, by bits [begin_bit, end_bit) of unsigned keys
//   sort_keys        the same of keys alone
//   select_distinct  the first of each run of equal values; *count is device memory
//   exclusive_scan   out[i] = in[0] + ... + in[i-1], summed in Out; in == out is allowed
//   inclusive_scan   out[i] = in[0] + ... + in[i]
//   reduce_sum       *out = in[0] + ... + in[n-1]; out is device memory
//   select_indices   the i with flags[i] != 0, ascending; *count is device memory
//
// Counts are int64. All work is queued on the stream; nothing synchronises with the host. Scratch
// comes from torch's allocator, on the current stream: pass fl::current_stream(device).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>

#include "core/portable.h"
#include "core/sort_scan_cpu.h"

#if defined(__CUDACC__)

#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_reduce.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>

#include "core/allocate.h"

namespace fl {

// Device memory for the length of a scope. Freed without waiting: torch hands it out again only to
// later work on the same stream.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes)
      : tensor_(allocate({static_cast<int64_t>(bytes)}, torch::headeronly::ScalarType::Byte,
                         aoti_torch_device_type_cuda(), current_device())) {}

  template <typename T = void>
  T* data() const {
    return static_cast<T*>(tensor_.mutable_data_ptr());
  }

 private:
  torch::stable::Tensor tensor_;
};

namespace detail {

template <typename T>
struct Plus {
  FL_HD T operator()(T a, T b) const { return a + b; }
};

template <typename To>
struct Cast {
  template <typename From>
  FL_HD To operator()(From value) const {
    return static_cast<To>(value);
  }
};

// CUB adds in the type that it reads: reading Out makes sums of small integers safe.
template <typename Out, typename In>
auto read_as(const In* in) {
  return thrust::make_transform_iterator(in, Cast<Out>{});
}

// Calls a CUB function twice: for the size of its scratch, then for the work.
template <typename Function>
void with_scratch(const char* name, const Function& function) {
  std::size_t bytes = 0;
  check_cuda(function(nullptr, bytes), name);
  const Scratch scratch(bytes);
  check_cuda(function(scratch.data(), bytes), name);
}

}  // namespace detail

template <typename In, typename Out>
void exclusive_scan(const In* in, Out* out, int64_t n, Stream stream) {
  if (n <= 0) return;
  detail::with_scratch("exclusive_scan", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceScan::ExclusiveScan(scratch, bytes, detail::read_as<Out>(in), out,
                                          detail::Plus<Out>{}, Out(0), n, stream);
  });
}

template <typename In, typename Out>
void inclusive_scan(const In* in, Out* out, int64_t n, Stream stream) {
  if (n <= 0) return;
  detail::with_scratch("inclusive_scan", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceScan::InclusiveScan(scratch, bytes, detail::read_as<Out>(in), out,
                                          detail::Plus<Out>{}, n, stream);
  });
}

template <typename In, typename Out>
void reduce_sum(const In* in, Out* out, int64_t n, Stream stream) {
  if (n <= 0) return zero_async(out, sizeof(Out), stream);
  detail::with_scratch("reduce_sum", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceReduce::Reduce(scratch, bytes, detail::read_as<Out>(in), out, n,
                                     detail::Plus<Out>{}, Out(0), stream);
  });
}

template <typename Index>
void select_indices(const uint8_t* flags, Index* indices, int64_t* count, int64_t n,
                    Stream stream) {
  if (n <= 0) return zero_async(count, sizeof(int64_t), stream);
  detail::with_scratch("select_indices", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceSelect::Flagged(scratch, bytes, thrust::counting_iterator<Index>(0), flags,
                                      indices, count, n, stream);
  });
}

template <typename Key, typename Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                int64_t n, int begin_bit, int end_bit, Stream stream) {
  static_assert(std::is_unsigned<Key>::value, "sort_pairs: expected unsigned keys");
  if (n <= 0) return;
  detail::with_scratch("sort_pairs", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(scratch, bytes, keys_in, keys_out, values_in, values_out,
                                           n, begin_bit, end_bit, stream);
  });
}

template <typename Key>
void sort_keys(const Key* keys_in, Key* keys_out, int64_t n, int begin_bit, int end_bit,
               Stream stream) {
  static_assert(std::is_unsigned<Key>::value, "sort_keys: expected unsigned keys");
  if (n <= 0) return;
  detail::with_scratch("sort_keys", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceRadixSort::SortKeys(scratch, bytes, keys_in, keys_out, n, begin_bit, end_bit,
                                          stream);
  });
}

template <typename T>
void select_distinct(const T* in, T* out, int64_t* count, int64_t n, Stream stream) {
  if (n <= 0) return zero_async(count, sizeof(int64_t), stream);
  detail::with_scratch("select_distinct", [&](void* scratch, std::size_t& bytes) {
    return cub::DeviceSelect::Unique(scratch, bytes, in, out, count, n, stream);
  });
}

}  // namespace fl

#elif defined(FL_EMULATE)

namespace fl {

class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : bytes_(new unsigned char[bytes]) {}

  template <typename T = void>
  T* data() const {
    return static_cast<T*>(static_cast<void*>(bytes_.get()));
  }

 private:
  std::unique_ptr<unsigned char[]> bytes_;
};

template <typename In, typename Out>
void exclusive_scan(const In* in, Out* out, int64_t n, Stream) {
  cpu::exclusive_scan(in, out, n);
}

template <typename In, typename Out>
void inclusive_scan(const In* in, Out* out, int64_t n, Stream) {
  cpu::inclusive_scan(in, out, n);
}

template <typename In, typename Out>
void reduce_sum(const In* in, Out* out, int64_t n, Stream) {
  *out = cpu::reduce_sum<Out>(in, n);
}

template <typename Index>
void select_indices(const uint8_t* flags, Index* indices, int64_t* count, int64_t n, Stream) {
  *count = cpu::select_indices(flags, indices, n);
}

template <typename Key, typename Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                int64_t n, int begin_bit, int end_bit, Stream) {
  cpu::sort_pairs(keys_in, keys_out, values_in, values_out, n, begin_bit, end_bit);
}

template <typename Key>
void sort_keys(const Key* keys_in, Key* keys_out, int64_t n, int begin_bit, int end_bit, Stream) {
  std::vector<Key> values(n);
  cpu::sort_pairs(keys_in, keys_out, keys_in, values.data(), n, begin_bit, end_bit);
}

template <typename T>
void select_distinct(const T* in, T* out, int64_t* count, int64_t n, Stream) {
  *count = std::unique_copy(in, in + n, out) - out;
}

}  // namespace fl

#endif
