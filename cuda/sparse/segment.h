// SPDX-License-Identifier: Apache-2.0
//
// Reductions over segments: lists of rows, sorted by segment. So that one list of all rows is as
// fast as many short ones, the sorted list is also cut into blocks of kBlockRows: a segment of more
// rows than that is long. Short segments are reduced in one go. Long ones are reduced block by
// block, and then over their blocks in order. A block meets at most two long segments: the one that
// its first row is of, and one that begins in it; their parts go to places 2 b and 2 b + 1.
//
//   rows      0                 B                2B                3B          n
//   segments  |--short--|---------------long-----------|--short--|---long------|
//   parts               [  1    |        2       |  4   ]        [5 |    6     ]
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "sparse/element.h"

namespace fl::sparse {

constexpr int64_t kBlockRows = 256;

enum class Reduction : int { sum = 0, mean = 1, max = 2, min = 3 };

// Row indices of either width.
struct Indices {
  const void* data;
  bool wide;

  FL_HD int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i]
                : static_cast<int64_t>(static_cast<const int32_t*>(data)[i]);
  }
};

struct Range {
  int64_t begin, end;
  FL_HD int64_t count() const { return end - begin; }
};

struct Segments {
  const int32_t* order;   // [n] what is in which place
  const int64_t* starts;  // [n_segments + 1] places; those behind the last are of no segment
  int64_t n, n_segments;

  // Cut to what there is, whatever `starts` says.
  FL_HD Range range(int64_t segment) const {
    const int64_t first = starts[segment], last = starts[segment + 1];
    const int64_t begin = first < 0 ? 0 : first > n ? n : first;
    return {begin, last < begin ? begin : last > n ? n : last};
  }
  // The segment of a place; n_segments or -1 for none.
  FL_HD int64_t segment_of(int64_t place) const {
    int64_t low = 0, high = n_segments + 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (starts[middle] <= place)
        low = middle + 1;
      else
        high = middle;
    }
    return low - 1;
  }
  FL_HD bool is_long(Range range) const { return range.count() > kBlockRows; }
  FL_HD int64_t n_blocks() const { return (n + kBlockRows - 1) / kBlockRows; }
};

// What a block holds of a long segment; empty if it holds none.
struct SegmentPart {
  int64_t segment;
  Range range;  // of places
  bool starts_here;
};

// `which` is 0 for the segment of the block's first place, 1 for one that begins behind it.
FL_HD SegmentPart part_of_block(const Segments& s, int64_t block, int which) {
  const int64_t begin = block * kBlockRows;
  const int64_t end = begin + kBlockRows < s.n ? begin + kBlockRows : s.n;
  const SegmentPart none{-1, {0, 0}, false};
  const int64_t segment = s.segment_of(which == 0 ? begin : end - 1);
  if (segment < 0 || segment >= s.n_segments) return none;
  const Range all = s.range(segment);
  if (!s.is_long(all) || (which == 1) != (all.begin > begin)) return none;
  return {segment,
          {all.begin > begin ? all.begin : begin, all.end < end ? all.end : end},
          all.begin >= begin};
}

// The places of a long segment's parts: its first, then one in every block up to its last.
struct PartPlaces {
  int64_t first, block, n_blocks;  // of the parts behind the first

  FL_HD PartPlaces(Range range)
      : first(2 * (range.begin / kBlockRows) + (range.begin % kBlockRows != 0 ? 1 : 0)),
        block(range.begin / kBlockRows + 1),
        n_blocks((range.end - 1) / kBlockRows - range.begin / kBlockRows) {}

  FL_HD int64_t count() const { return n_blocks + 1; }
  FL_HD int64_t operator[](int64_t i) const { return i == 0 ? first : 2 * (block + i - 1); }
};

template <typename T>
struct ReduceArgs {
  Segments segments;
  const T* features;      // [n_rows, channels]
  const Sum<T>* weights;  // sums only: a factor of each item of `order`; null: 1
  T* out;                 // [n_segments, channels]
  int32_t* picked;        // max and min: the row of each value, [n_segments, channels]; -1: none
  int64_t n_rows, channels;
  int items_per_row;  // the row of an item is item / items_per_row
  Reduction reduction;

  FL_HD bool picks() const { return reduction == Reduction::max || reduction == Reduction::min; }
  // The row of an item, or -1 if there is no such row.
  FL_HD int64_t row_of(int32_t item) const {
    const int64_t row = items_per_row == 1 ? item : item / items_per_row;
    return item >= 0 && row < n_rows ? row : -1;
  }
};

template <typename T>
struct PickedArgs {
  const T* gradient;      // [n, channels]
  const int32_t* picked;  // [n, channels], the row of each value
  T* g_features;          // [n_rows, channels], zero
  int64_t n, n_rows, channels;

  // No two values were picked from the same place, so nothing is added up.
  FL_HD void put(int64_t i, int64_t channel) const {
    const int64_t row = picked[i * channels + channel];
    if (row >= 0 && row < n_rows)
      g_features[row * channels + channel] = gradient[i * channels + channel];
  }
};

}  // namespace fl::sparse
