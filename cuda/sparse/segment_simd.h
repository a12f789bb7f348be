// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels of segment_simd.cpp take: a range of places, or a row of parts.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "sparse/segment.h"

namespace fl::sparse {

// What has been reduced so far: `places` are the rows that max and min came from.
template <typename T>
struct Reduced {
  Sum<T>* sums;     // [channels]
  int32_t* places;  // [channels]
  int64_t count;
};

}  // namespace fl::sparse

namespace fl {
// Reduces the short ones of segments [begin, end); returns whether there are long ones. `scratch`
// is for one segment.
FL_ISA_DECLARE(template <typename T> bool reduce_short(const sparse::ReduceArgs<T>& args,
                                                       sparse::Reduced<T> scratch, int64_t begin,
                                                       int64_t end))
// Reduces the rows at a range of places; returns how many there were.
FL_ISA_DECLARE(template <typename T> int64_t reduce_part(const sparse::ReduceArgs<T>& args,
                                                         sparse::Range range,
                                                         sparse::Reduced<T> part))
// Joins the next part to those before it.
FL_ISA_DECLARE(template <typename T> void join_part(const sparse::ReduceArgs<T>& args,
                                                    const sparse::Reduced<T>& next,
                                                    sparse::Reduced<T>& before))
// Writes a segment's result.
FL_ISA_DECLARE(template <typename T> void store_reduced(const sparse::ReduceArgs<T>& args,
                                                        int64_t segment,
                                                        const sparse::Reduced<T>& reduced))
FL_ISA_DECLARE(template <typename T>
               void put_picked(const sparse::PickedArgs<T>& args, int64_t begin, int64_t end))
}  // namespace fl
