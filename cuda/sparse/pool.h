// SPDX-License-Identifier: Apache-2.0
//
// Pooling over a kernel map: each row takes what its taps bring, tap after tap. The gradient is the
// same walk over the reverse map. A CPU reads the map as pairs, tap by tap with ascending rows, a
// GPU as a table.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "sparse/element.h"

namespace fl::sparse {

enum class PoolKind : int {
  sum = 0,
  mean = 1,
  max = 2,     // writes `kept`: the tap of each greatest value, -1 in rows without any
  picked = 3,  // the gradient of max: a sum of what `kept` of the row read names the tap of
};

struct PoolMap {
  const int32_t *from_rows, *to_rows;  // [n_pairs]
  const int64_t* starts;               // [n_taps + 1]
  const int32_t* table;                // [n_taps, n_to]: a row read, or -1
  int64_t n_pairs;
  int n_taps;
};

template <typename T>
struct PoolArgs {
  PoolMap map;
  const T* from;         // [n_from, channels]
  T* to;                 // [n_to, channels]
  int16_t* kept;         // max: [n_to, channels]; mean: how many rows were read, [n_to]
  const int16_t* picks;  // picked: [n_from, channels]
  int64_t n_from, n_to, channels;
  PoolKind kind;
};

}  // namespace fl::sparse
