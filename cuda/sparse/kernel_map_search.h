// SPDX-License-Identifier: Apache-2.0
//
// What a thread does to put a row into a hash table, and to look up the partners of a coarse row.
#pragma once

#include "core/portable.h"
#include "sparse/kernel_map.h"

namespace fl::sparse {

using Word = unsigned long long;

FL_D void insert_row(const SlotTable& table, int64_t i, Word* slots) {
  const int32_t* row = table.coords + i * table.columns;
  const uint64_t hash = hash_row(row, table.columns);
  const Word own = make_slot(hash, i);
  for (uint64_t place = hash & table.mask;; place = (place + 1) & table.mask) {
    const Word held = atomicCAS(slots + place, Word{0}, own);
    if (held == 0) return;
    if (!table.holds(held, hash, row)) continue;
    atomicMax(slots + place, own);
    return;
  }
}

// C columns, a constant to the compiler. A line is all taps that differ in the last axis alone.
template <int C>
struct Search {
  SlotTable table;
  Reach reach;
  const int32_t* coarse;
  int64_t count, taps;
  int32_t* out;

  FL_D int64_t length() const { return reach.axes[C - 2].taps; }

  FL_D int32_t* place(int64_t tap, int64_t row) const { return out + tap * count + row; }

  // Calls f(tap, fine row or -1) for the taps of a line, below an end, of coarse row i.
  template <typename F>
  FL_D void line(int64_t i, uint32_t line, int64_t first, int64_t end, const F& f) const {
    int32_t fine[C];
    fine[0] = coarse[i * C];
    bool exists = true;
    for (int a = C - 3; a >= 0; --a) {
      const uint32_t taps_here = static_cast<uint32_t>(reach.axes[a].taps);
      int64_t value;
      exists &= reach.axes[a].fine(coarse[i * C + a + 1], line % taps_here, &value);
      fine[a + 1] = static_cast<int32_t>(value);
      line /= taps_here;
    }
    SlotTable own = table;
    own.columns = C;
    for (int64_t tap = first; tap < first + length() && tap < end; ++tap) {
      int64_t value;
      const bool inside = reach.axes[C - 2].fine(coarse[i * C + C - 1], tap - first, &value);
      fine[C - 1] = static_cast<int32_t>(value);
      f(tap, exists && inside ? own.find(fine) : -1);
    }
  }

  // The lines of this block's share that hold taps in [begin, end).
  template <typename F>
  FL_D void lines(int64_t i, int64_t begin, int64_t end, uint32_t from, uint32_t step,
                  const F& f) const {
    for (int64_t number = begin / length() + from; number * length() < end; number += step)
      line(i, static_cast<uint32_t>(number), number * length(), end, f);
  }
};

}  // namespace fl::sparse
