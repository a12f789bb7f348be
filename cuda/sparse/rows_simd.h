// SPDX-License-Identifier: Apache-2.0
//
// What the CPU kernels do with one row of channels, for *_simd.cpp files: plain loops that the
// compiler turns into vectors of the instruction set it compiles for. No result depends on how
// wide those are.
#pragma once

#include <cstdint>

#include "sparse/element.h"

#ifndef FL_ISA
#error "rows_simd.h belongs in *_simd.cpp files, which CMake compiles once a level with FL_ISA set"
#endif

#ifndef FL_SIMD
#define FL_SIMD static inline __attribute__((always_inline))
#endif

namespace fl {
namespace FL_ISA {

using sparse::Sum;

template <typename T>
FL_SIMD void copy_row(Sum<T>* __restrict__ sum, const T* __restrict__ row, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] = sparse::widen(row[c]);
}

FL_SIMD void copy_places(int32_t* __restrict__ to, const int32_t* __restrict__ from, int64_t n) {
  for (int64_t c = 0; c < n; ++c) to[c] = from[c];
}

template <typename T>
FL_SIMD void add_row(Sum<T>* __restrict__ sum, const T* __restrict__ row, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] += sparse::widen(row[c]);
}

template <typename T>
FL_SIMD void scale_row(Sum<T>* __restrict__ sum, Sum<T> weight, const T* __restrict__ row,
                       int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] = weight * sparse::widen(row[c]);
}

template <typename T>
FL_SIMD void add_scaled_row(Sum<T>* __restrict__ sum, Sum<T> weight, const T* __restrict__ row,
                            int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] += weight * sparse::widen(row[c]);
}

// The sum of products, in 16 partial sums.
template <typename T>
FL_SIMD Sum<T> dot_rows(const T* a, const T* b, int64_t n) {
  constexpr int kParts = 16;
  Sum<T> parts[kParts] = {};
  int64_t c = 0;
  for (; c + kParts <= n; c += kParts)
    for (int k = 0; k < kParts; ++k) parts[k] += sparse::widen(a[c + k]) * sparse::widen(b[c + k]);
  for (int k = 0; c + k < n; ++k) parts[k] += sparse::widen(a[c + k]) * sparse::widen(b[c + k]);
  for (int width = kParts / 2; width > 0; width /= 2)
    for (int k = 0; k < width; ++k) parts[k] += parts[k + width];
  return parts[0];
}

template <typename T>
FL_SIMD void fill_row(T* row, T value, int64_t n) {
  for (int64_t c = 0; c < n; ++c) row[c] = value;
}

template <typename T>
FL_SIMD void store_row(T* __restrict__ row, const Sum<T>* __restrict__ sum, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sparse::narrow(sum[c], row[c]);
}

template <typename T>
FL_SIMD void store_mean(T* __restrict__ row, const Sum<T>* __restrict__ sum, Sum<T> count,
                        int64_t n) {
  for (int64_t c = 0; c < n; ++c) sparse::narrow(sum[c] / count, row[c]);
}

// Keeps the greater of each channel (or the lesser) and the place that it came from; the first of
// equals stays, and what is not a number beats what is.
template <bool kGreater, typename T>
FL_SIMD void keep_row(Sum<T>* __restrict__ best, int32_t* __restrict__ places,
                      const T* __restrict__ row, int32_t place, int64_t n) {
  for (int64_t c = 0; c < n; ++c) {
    const Sum<T> value = sparse::widen(row[c]), held = best[c];
    const bool better =
        (kGreater ? value > held : value < held) | ((value != value) & (held == held));
    best[c] = better ? value : held;
    places[c] = better ? place : places[c];
  }
}

}  // namespace FL_ISA
}  // namespace fl
