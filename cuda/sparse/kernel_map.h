// SPDX-License-Identifier: Apache-2.0
//
// A hash table of coordinates, host and device. A slot holds part of a row's hash and the row's
// number; what the number names is compared in full, so that nothing depends on keys that might
// not fit. Zero is an empty slot. Slots are probed one after another; of equal coordinates the
// smallest row stays, whoever comes first.
//
//   63 ............ 32 | 31 ........... 0
//   high bits of hash  |   ~row number
#pragma once

#include "sparse/coordinates.h"

namespace fl::sparse {

FL_HD uint64_t make_slot(uint64_t hash, int64_t row) {
  return hash >> 32 << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(row));
}

FL_HD int32_t row_of_slot(uint64_t slot) {
  return static_cast<int32_t>(~static_cast<uint32_t>(slot));
}

struct SlotTable {
  const uint64_t* slots;
  uint64_t mask;  // the number of slots, a power of two, less one
  const int32_t* coords;
  int64_t count;
  int columns;

  FL_HD bool holds(uint64_t slot, uint64_t hash, const int32_t* row) const {
    if (slot >> 32 != hash >> 32) return false;
    const int64_t found = row_of_slot(slot);
    if (found < 0 || found >= count) return false;
    const int32_t* other = coords + found * columns;
    for (int c = 0; c < columns; ++c)
      if (other[c] != row[c]) return false;
    return true;
  }

  FL_HD int32_t find(const int32_t* row) const {
    const uint64_t hash = hash_row(row, columns);
    uint64_t place = hash & mask;
    for (uint64_t probe = 0; probe <= mask; ++probe, place = (place + 1) & mask) {
      const uint64_t slot = slots[place];
      if (slot == 0) return -1;
      if (holds(slot, hash, row)) return row_of_slot(slot);
    }
    return -1;
  }
};

// At most half full.
inline int64_t slot_count(int64_t rows) {
  int64_t slots = 2;
  while (slots < 2 * rows) slots *= 2;
  return slots;
}

}  // namespace fl::sparse
