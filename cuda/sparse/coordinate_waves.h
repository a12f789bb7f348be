// SPDX-License-Identifier: Apache-2.0
//
// Sets of coordinates that are made together. Where a set's rows lead to at most one row each of
// the next, as those of a 2 x 2 x 2 kernel of stride 2 do, a row of the first set can be followed
// through all of them, and the sets need not wait for each other: they are one wave. A set whose
// rows lead to several begins another.
//
// Each row of a wave's base has a fixed number of slots in each set, one for what it may reach.
#pragma once

#include <vector>

#include "core/portable.h"
#include "sparse/coordinates_entry.h"

namespace fl::sparse {

constexpr int kMostWaveSets = 8;  // what the arguments of a kernel have room for

// One set of a wave.
struct WaveSet {
  Reach reach;
  Layout layout;
  int source;  // which of the wave's sets it is reached from; -1: the base
  uint32_t per_row;
  int64_t first_slot;
};

struct Wave {
  const int32_t* base;
  const int64_t* range;  // of the base's rows, on the device; null: all of them
  int64_t base_room;     // rows that there is memory of
  int64_t slots;
  int columns, count, key_bits;
  WaveSet sets[kMostWaveSets];

  FL_D int set_of(int64_t slot) const {
    int set = count - 1;
    while (slot < sets[set].first_slot) --set;
    return set;
  }

  // What is in a slot of a set, if anything is.
  FL_D bool read(int set, int64_t slot, int32_t* row) const {
    slot -= sets[set].first_slot;
    // Fewer than 2^32 slots: a division of 64 bits would be most of the work.
    const uint32_t own = static_cast<uint32_t>(slot), per_row = sets[set].per_row;
    int64_t from = per_row == 1 ? own : own / per_row;
    uint32_t choice = per_row == 1 ? 0 : own % per_row;
    if (range != nullptr) from += range[0];
    if (from >= base_room || (range != nullptr && from >= range[1])) return false;
    for (int c = 0; c < columns; ++c) row[c] = base[from * columns + c];
    int path[kMostWaveSets], steps = 0;
    for (int step = set; step >= 0; step = sets[step].source) path[steps++] = step;
    while (steps > 0) {
      if (!sets[path[--steps]].reach.candidate(row, choice, row)) return false;
      choice = 0;  // beyond the first step there is one
    }
    return true;
  }
};

// Rows that were found, set after set, and where each set begins.
struct WaveRows {
  int32_t* rows;
  int64_t room;
  int64_t* starts;

  // Called once for each row, the last one being told apart, with the sets that it and the row
  // before are of; -1 before the first.
  FL_D void mark(int64_t row, int before, int set, bool last, int count) const {
    for (int s = before + 1; s <= set; ++s) starts[s] = row;
    if (last)
      for (int s = set + 1; s <= count; ++s) starts[s] = row + 1;
  }
};

}  // namespace fl::sparse
