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
// Takes the rows at a range of places in.
FL_ISA_DECLARE(template <typename T> void reduce_places(const sparse::ReduceArgs<T>& args,
                                                        sparse::Range range,
                                                        sparse::Reduced<T>& reduced))
// Takes in a part that was reduced before.
FL_ISA_DECLARE(template <typename T> void reduce_part(const sparse::ReduceArgs<T>& args,
                                                      const sparse::Reduced<T>& part,
                                                      sparse::Reduced<T>& reduced))
// Writes a segment's result.
FL_ISA_DECLARE(template <typename T> void store_reduced(const sparse::ReduceArgs<T>& args,
                                                        int64_t segment,
                                                        const sparse::Reduced<T>& reduced))
FL_ISA_DECLARE(template <typename T>
               void put_picked(const sparse::PickedArgs<T>& args, int64_t begin, int64_t end))
}  // namespace fl
