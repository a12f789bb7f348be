// SPDX-License-Identifier: Apache-2.0
//
// Interpolation on the CPU: row after row into sums that stay in the first cache.
#include "sparse/interpolate_simd.h"

#include "sparse/rows_simd.h"

namespace fl {
namespace FL_ISA {

using sparse::InterpolateArgs;

template <typename T>
int64_t interpolate_queries(const InterpolateArgs<T>& a, Sum<T>* sums, T* out, int64_t begin,
                            int64_t end) {
  int64_t outside = -1;
  for (int64_t query = begin; query < end; ++query) {
    bool first = true;
    for (int64_t entry = query * a.taps; entry < (query + 1) * a.taps; ++entry) {
      const int64_t row = a.row(entry);
      if (row < 0) {
        if (a.rows[entry] >= a.n) outside = entry;
        continue;
      }
      const T* values = a.features + row * a.channels;
      if (first)
        scale_row(sums, a.weight(entry), values, a.channels);
      else
        add_scaled_row(sums, a.weight(entry), values, a.channels);
      first = false;
    }
    if (first)
      fill_row(out + query * a.channels, T{}, a.channels);
    else
      store_row(out + query * a.channels, sums, a.channels);
  }
  return outside;
}

template <typename T>
void interpolate_weights(const InterpolateArgs<T>& a, const T* gradient, Sum<T>* g_weights,
                         int64_t begin, int64_t end) {
  for (int64_t query = begin; query < end; ++query) {
    const T* g = gradient + query * a.channels;
    for (int64_t entry = query * a.taps; entry < (query + 1) * a.taps; ++entry) {
      const int64_t row = a.row(entry);
      g_weights[entry] =
          row < 0 ? Sum<T>(0) : dot_rows(g, a.features + row * a.channels, a.channels);
    }
  }
}

#define FL_INSTANTIATE(T)                                                                         \
  template int64_t interpolate_queries(const InterpolateArgs<T>&, Sum<T>*, T*, int64_t, int64_t); \
  template void interpolate_weights(const InterpolateArgs<T>&, const T*, Sum<T>*, int64_t, int64_t);
FL_INSTANTIATE(float)
FL_INSTANTIATE(double)
FL_INSTANTIATE(sparse::Half)
FL_INSTANTIATE(sparse::BFloat16)
#undef FL_INSTANTIATE

}  // namespace FL_ISA
}  // namespace fl
