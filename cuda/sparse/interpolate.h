// SPDX-License-Identifier: Apache-2.0
//
// Interpolation: each query takes a weighted sum of the rows that it names. Its gradient to
// features is a weighted sum over segments, those of the entries that name a row (segment.h).
#pragma once

#include <cstdint>

#include "sparse/element.h"
#include "sparse/segment.h"

namespace fl::sparse {

template <typename T>
struct InterpolateArgs {
  const T* features;      // [n, channels]
  Indices rows;           // [queries, taps]; rows that there are not are skipped
  const Sum<T>* weights;  // [queries, taps]; null: 1
  int64_t n, queries, taps, channels;

  // The row of an entry, or -1.
  FL_HD int64_t row(int64_t entry) const {
    const int64_t row = rows[entry];
    return row < n ? row : -1;
  }
  FL_HD Sum<T> weight(int64_t entry) const {
    return weights != nullptr ? weights[entry] : Sum<T>(1);
  }
};

}  // namespace fl::sparse
