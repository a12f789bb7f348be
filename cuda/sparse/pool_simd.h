// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernel of pool_simd.cpp takes: a block of rows.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "sparse/pool.h"

namespace fl::sparse {

// Scratch of one thread.
template <typename T>
struct PoolScratch {
  Sum<T>* sums;      // [rows, channels]
  int32_t* places;   // [rows, channels], for max alone
  int32_t* counts;   // [rows]
  int64_t* cursors;  // [n_taps]: the next pair of each tap
};

}  // namespace fl::sparse

namespace fl {
// Pools rows [begin, end), moves the cursors on, and returns how many pairs it used.
FL_ISA_DECLARE(template <typename T> int64_t pool_block(const sparse::PoolArgs<T>& args,
                                                        const sparse::PoolScratch<T>& scratch,
                                                        int64_t begin, int64_t end))
}  // namespace fl
