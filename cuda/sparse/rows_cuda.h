// SPDX-License-Identifier: Apache-2.0
//
// How CUDA kernels share out rows of channels: a thread takes a run of V channels, 16 bytes of them
// where rows are so aligned, and the threads of a row lie next to each other. Thread (x, y) of
// block b works on row b * blockDim.y + y, and its channels begin at x * V, (x + blockDim.x) * V...
#pragma once

#include <cstdint>

#include "core/portable.h"
#include "sparse/element.h"

namespace fl::sparse {

constexpr int kRowThreads = 256;

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

template <int V, typename T>
FL_D Pack<T, V> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}

template <int V, typename T>
FL_D void store_pack(T* p, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(p) = pack;
}

template <int V, typename T>
FL_D void store_sums(T* p, const Sum<T>* sums) {
  Pack<T, V> pack;
  FL_UNROLL
  for (int k = 0; k < V; ++k) narrow(sums[k], pack.v[k]);
  store_pack<V>(p, pack);
}

struct RowShape {
  dim3 block;

  RowShape(int64_t channels, int width, unsigned most_columns = 64) : block(1, kRowThreads) {
    while (block.x * width < channels && block.x < most_columns) {
      block.x *= 2;
      block.y /= 2;
    }
  }
  int64_t blocks(int64_t rows) const { return (rows + block.y - 1) / block.y; }
};

FL_D int64_t this_row() { return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; }

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Calls f(std::integral_constant<int, V>) with as many channels a thread as rows allow.
template <typename T, typename F>
void dispatch_width(int64_t channels, bool aligned, const F& f) {
  constexpr int kWidest = 16 / sizeof(T);
  if (aligned && channels % kWidest == 0)
    f(std::integral_constant<int, kWidest>{});
  else
    f(std::integral_constant<int, 1>{});
}

}  // namespace fl::sparse
