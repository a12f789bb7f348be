// SPDX-License-Identifier: Apache-2.0
//
// Waves whose rows lie too far apart for keys of one word: what is in their slots is written down,
// and sorted column by column, the last one first, then by sets.
#pragma once

#include "core/sort_scan.h"
#include "sparse/coordinate_waves.h"
#include "sparse/launch.h"

namespace fl::sparse {
namespace {

constexpr int kColumnBits = 32;
constexpr int kSetBits = 4;
static_assert(kMostWaveSets < 1 << kSetBits, "sets are told apart by so many bits");

struct Slots {
  int32_t* rows;
  uint8_t* sets;  // of each slot, their number where it is empty
  int columns;

  FL_D const int32_t* row(int64_t slot) const { return rows + slot * columns; }

  FL_D bool same(int64_t a, int64_t b) const {
    if (sets[a] != sets[b]) return false;
    for (int c = 0; c < columns; ++c)
      if (row(a)[c] != row(b)[c]) return false;
    return true;
  }
};

FL_KERNEL wide_slot_kernel(Wave wave, Slots slots, uint32_t* numbers) {
  const int64_t i = this_thread();
  if (i >= wave.slots) return;
  const int set = wave.set_of(i);
  int32_t row[kMostColumns] = {};
  const bool full = wave.read(set, i, row);
  slots.sets[i] = static_cast<uint8_t>(full ? set : wave.count);
  for (int c = 0; c < wave.columns; ++c) slots.rows[i * wave.columns + c] = row[c];
  numbers[i] = static_cast<uint32_t>(i);
}

// Column -1 is the set. Negative values come first.
FL_KERNEL column_kernel(Slots slots, int column, int64_t n, const uint32_t* numbers,
                        uint32_t* keys) {
  const int64_t i = this_thread();
  if (i >= n) return;
  const int64_t slot = numbers[i];
  keys[i] =
      column < 0 ? slots.sets[slot] : static_cast<uint32_t>(slots.row(slot)[column]) ^ 0x80000000u;
}

FL_KERNEL begin_kernel(Slots slots, const uint32_t* numbers, int64_t n, uint8_t* begins) {
  const int64_t i = this_thread();
  if (i <= n) begins[i] = i < n && (i == 0 || !slots.same(numbers[i - 1], numbers[i]));
}

FL_KERNEL wide_write_kernel(Wave wave, WaveRows out, Slots slots, const uint32_t* numbers,
                            const uint8_t* begins, const int64_t* places) {
  const int64_t i = this_thread();
  if (i >= wave.slots || !begins[i]) return;
  const int64_t slot = numbers[i], place = places[i];
  const int set = slots.sets[slot], before = i > 0 ? slots.sets[numbers[i - 1]] : -1;
  out.mark(place, before, set, place + 1 == places[wave.slots], wave.count);
  if (set == wave.count || place >= out.room) return;
  for (int c = 0; c < wave.columns; ++c) out.rows[place * wave.columns + c] = slots.row(slot)[c];
}

void make_wide(const Wave& wave, const WaveRows& out, Stream stream) {
  const int64_t n = wave.slots;
  const Scratch rows(sizeof(int32_t) * n * wave.columns), sets(n), begins(n + 1);
  const Scratch number_memory(2 * sizeof(uint32_t) * n), key_memory(2 * sizeof(uint32_t) * n);
  const Scratch places(sizeof(int64_t) * (n + 1));
  const Slots slots{rows.data<int32_t>(), sets.data<uint8_t>(), wave.columns};
  uint32_t* keys = key_memory.data<uint32_t>();
  uint32_t* from = number_memory.data<uint32_t>();
  uint32_t* to = from + n;
  FL_LAUNCH(wide_slot_kernel, blocks_for(n), kThreads, 0, stream, wave, slots, from);
  for (int c = wave.columns - 1; c >= -1; --c, std::swap(from, to)) {
    FL_LAUNCH(column_kernel, blocks_for(n), kThreads, 0, stream, slots, c, n, from, keys);
    sort_pairs(keys, keys + n, from, to, n, 0, c < 0 ? kSetBits : kColumnBits, stream);
  }
  FL_LAUNCH(begin_kernel, blocks_for(n + 1), kThreads, 0, stream, slots, from, n,
            begins.data<uint8_t>());
  exclusive_scan(begins.data<uint8_t>(), places.data<int64_t>(), n + 1, stream);
  FL_LAUNCH(wide_write_kernel, blocks_for(n), kThreads, 0, stream, wave, out, slots, from,
            begins.data<uint8_t>(), places.data<int64_t>());
}

}  // namespace
}  // namespace fl::sparse
