// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels of interpolate_simd.cpp take: a run of queries.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "sparse/interpolate.h"

namespace fl {
// `sums` is scratch for one row. Returns an entry that names a row that there is not, or -1.
FL_ISA_DECLARE(template <typename T>
               int64_t interpolate_queries(const sparse::InterpolateArgs<T>& args,
                                           sparse::Sum<T>* sums, T* out, int64_t begin,
                                           int64_t end))
FL_ISA_DECLARE(template <typename T>
               void interpolate_weights(const sparse::InterpolateArgs<T>& args, const T* gradient,
                                        sparse::Sum<T>* g_weights, int64_t begin, int64_t end))
}  // namespace fl
