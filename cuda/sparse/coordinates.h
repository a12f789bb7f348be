// SPDX-License-Identifier: Apache-2.0
//
// Integer coordinates, host and device: rows of a batch and up to four axes, int32 each; how a
// kernel relates two of them; and how rows become keys that sort as the rows do.
#pragma once

#include <cstdint>
#include <limits>

#include "core/macros.h"

namespace fl::sparse {

constexpr int kMostAxes = 4;
constexpr int kMostColumns = kMostAxes + 1;

FL_HD int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// fine = coarse * stride + origin + tap * dilation, tap in [0, taps). Results outside [low, high)
// are none.
struct Axis {
  int64_t taps, stride, dilation, origin, low, high;
  int log2_stride;  // rounded down
  bool by_taps;     // taps are fewer than the cells that a kernel's extent can lie in

  FL_HD int64_t extent() const { return (taps - 1) * dilation; }

  FL_HD bool keep(int64_t value, int64_t* out) const {
    *out = value;
    return value >= low && value < high;
  }

  // How many numbers stand for all partners of a value, one or none each.
  FL_HD int64_t choices(bool to_fine) const {
    return to_fine || by_taps ? taps : extent() / stride + 1;
  }

  FL_HD bool fine(int64_t coarse, int64_t tap, int64_t* out) const {
    return keep(coarse * stride + origin + tap * dilation, out);
  }

  // The choice counts taps or, where fewer, the cells that a kernel's extent can lie in.
  FL_HD bool coarse(int64_t fine, int64_t choice, int64_t* out) const {
    if (by_taps) {
      const int64_t rest = fine - origin - choice * dilation;
      return rest % stride == 0 && keep(rest / stride, out);
    }
    const int64_t cell = floor_by_stride(fine - origin) - choice;
    const int64_t reach = fine - origin - cell * stride;
    return reach <= extent() && (dilation == 1 || reach % dilation == 0) && keep(cell, out);
  }

  // Divisions are most of the work on a GPU, and most strides are powers of two.
  FL_HD int64_t floor_by_stride(int64_t value) const {
    return (stride & (stride - 1)) == 0 ? value >> log2_stride : floor_divide(value, stride);
  }

  FL_HD bool partner(bool to_fine, int64_t value, int64_t choice, int64_t* out) const {
    return to_fine ? fine(value, choice, out) : coarse(value, choice, out);
  }

  // Lowest and highest partner of values in [*from, *to], clipped; *from > *to where there is none.
  FL_HD void bound(bool to_fine, int64_t* from, int64_t* to) const {
    if (to_fine) {
      *from = *from * stride + origin;
      *to = *to * stride + origin + extent();
    } else {
      *from = -floor_divide(-(*from - origin - extent()), stride);
      *to = floor_divide(*to - origin, stride);
    }
    if (*from < low) *from = low;
    if (*to >= high) *to = high - 1;
  }
};

// Lowest and highest of each column, both 0 where there are no rows.
struct Bounds {
  int64_t low[kMostColumns] = {}, high[kMostColumns] = {};

  bool contains(const Bounds& other, int columns) const {
    for (int c = 0; c < columns; ++c)
      if (other.low[c] < low[c] || other.high[c] > high[c]) return false;
    return true;
  }

  bool empty(int columns) const {
    for (int c = 0; c < columns; ++c)
      if (low[c] > high[c]) return true;
    return false;
  }
};

// What rows of one set reach in another.
struct Reach {
  Axis axes[kMostAxes];
  uint32_t choices[kMostAxes];
  uint32_t per_row;  // the product of choices
  int columns;
  bool to_fine;

  // `out` may be `row`.
  FL_HD bool candidate(const int32_t* row, uint32_t choice, int32_t* out) const {
    out[0] = row[0];
    for (int a = columns - 2; a >= 0; --a) {
      int64_t value;
      const uint32_t here = choices[a] == 1 ? 0 : choice % choices[a];
      if (!axes[a].partner(to_fine, row[a + 1], here, &value)) return false;
      out[a + 1] = static_cast<int32_t>(value);
      if (choices[a] > 1) choice /= choices[a];
    }
    return true;
  }

  // Where all that rows within bounds reach lies.
  Bounds bound(Bounds bounds) const {
    for (int a = 0; a + 1 < columns; ++a)
      axes[a].bound(to_fine, &bounds.low[a + 1], &bounds.high[a + 1]);
    return bounds;
  }
};

// Where each column lies in a key of one or more 64-bit words, of which word 0 counts least. No
// column is split, and no word has its highest bit set, so that a key of all ones is none.
struct Layout {
  int columns, words;
  int word[kMostColumns], shift[kMostColumns], bits[kMostColumns];
  int64_t low[kMostColumns];

  FL_HD uint64_t pack_word(const int32_t* row, int w) const {
    uint64_t key = 0;
    for (int c = 0; c < columns; ++c)
      if (word[c] == w) key |= static_cast<uint64_t>(row[c] - low[c]) << shift[c];
    return key;
  }

  int word_bits(int w) const {
    int most = 0;
    for (int c = 0; c < columns; ++c)
      if (word[c] == w && shift[c] + bits[c] > most) most = shift[c] + bits[c];
    return most;
  }

  // Of a layout of one word.
  FL_HD uint64_t pack_single(const int32_t* row) const {
    uint64_t key = 0;
    for (int c = 0; c < columns; ++c) key |= static_cast<uint64_t>(row[c] - low[c]) << shift[c];
    return key;
  }

  FL_HD void unpack_single(uint64_t key, int32_t* row) const {
    for (int c = 0; c < columns; ++c) {
      const uint64_t field = key >> shift[c] & ((uint64_t{1} << bits[c]) - 1);
      row[c] = static_cast<int32_t>(static_cast<int64_t>(field) + low[c]);
    }
  }
};

FL_HD Layout make_layout(int columns, const Bounds& bounds) {
  constexpr int word_bits = 63;
  Layout layout{};
  layout.columns = columns;
  layout.words = 1;
  int used = 0;
  for (int c = columns - 1; c >= 0; --c) {
    int bits = 0;
    for (int64_t range = bounds.high[c] - bounds.low[c]; range > 0; range >>= 1) ++bits;
    if (used + bits > word_bits) {
      ++layout.words;
      used = 0;
    }
    layout.word[c] = layout.words - 1;
    layout.shift[c] = used;
    layout.bits[c] = bits;
    layout.low[c] = bounds.low[c];
    used += bits;
  }
  return layout;
}

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): its finaliser.
FL_HD uint64_t mix_bits(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return x ^ x >> 31;
}

// Two columns a round.
FL_HD uint64_t hash_row(const int32_t* row, int columns) {
  constexpr uint64_t golden = 0x9E3779B97F4A7C15ull;
  uint64_t hash = 0;
  for (int c = 0; c < columns; c += 2) {
    const uint64_t first = static_cast<uint32_t>(row[c]);
    const uint64_t second = c + 1 < columns ? static_cast<uint32_t>(row[c + 1]) : 0;
    hash = mix_bits((hash ^ (first << 32 | second)) + golden);
  }
  return hash;
}

}  // namespace fl::sparse
