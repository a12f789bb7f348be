// SPDX-License-Identifier: Apache-2.0
//
// Threads over a list, as the kernels of coordinates and maps take them.
#pragma once

#include "core/portable.h"

namespace fl::sparse {

constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_D int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

template <typename T>
FL_KERNEL fill_kernel(T* out, int64_t n, T value) {
  const int64_t i = this_thread();
  if (i < n) out[i] = value;
}

template <typename T>
void fill(T* out, int64_t n, T value, Stream stream) {
  FL_LAUNCH((fill_kernel<T>), blocks_for(n), kThreads, 0, stream, out, n, value);
}

}  // namespace fl::sparse
