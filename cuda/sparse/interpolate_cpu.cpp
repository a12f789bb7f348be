// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of interpolation: threads over queries.
#include <atomic>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/interpolate_entry.h"
#include "sparse/interpolate_simd.h"
#include "sparse/segment_reduce.h"

namespace fl::sparse {
namespace {

constexpr int64_t kGrain = 256;

struct CpuInterpolate {
  template <typename T>
  static void forward(const InterpolateArgs<T>& a, T* out, const Tensor&) {
    std::atomic<int64_t> outside{-1};
    parallel_for(0, a.queries, kGrain, [&](int64_t begin, int64_t end) {
      std::vector<Sum<T>> sums(a.channels);
      const int64_t entry = FL_ISA_SELECT(interpolate_queries<T>)(a, sums.data(), out, begin, end);
      if (entry >= 0) outside = entry;
    });
    const int64_t where = outside;
    STD_TORCH_CHECK(where < 0, "sparse_interpolate: rows: expected rows below ", a.n, ", got ",
                    a.rows[where], " for query ", where / a.taps);
  }

  template <typename T>
  static void weights(const InterpolateArgs<T>& a, const T* gradient, Sum<T>* g_weights,
                      const Tensor&) {
    parallel_for(0, a.queries, kGrain, [&](int64_t begin, int64_t end) {
      FL_ISA_SELECT(interpolate_weights<T>)(a, gradient, g_weights, begin, end);
    });
  }

  template <typename T>
  static void features(const ReduceArgs<T>& a, const Tensor&) {
    reduce_on_cpu(a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_interpolate", TORCH_BOX(&sparse_interpolate<CpuInterpolate>));
  m.impl("sparse_interpolate_weights_backward",
         TORCH_BOX(&sparse_interpolate_weights_backward<CpuInterpolate>));
  m.impl("sparse_interpolate_features_backward",
         TORCH_BOX(&sparse_interpolate_features_backward<CpuInterpolate>));
}

}  // namespace fl::sparse
