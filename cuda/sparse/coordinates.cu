// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of coordinate sets. Every row has a fixed number of slots, one for each coordinate
// that it may reach; slots are sorted by what is in them, empty ones last, and the first of each
// run of equals is kept. How many rows a set has, and how its keys are laid out, stays on the
// device, so that sets follow one another without the host: it gives room, and reads at the end
// what was found. Rows too far apart for one word are sorted column by column instead.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/coordinates_entry.h"
#include "sparse/launch.h"

namespace fl::sparse {
namespace {

constexpr uint64_t kEmpty = ~uint64_t{0};

// Of an attempt to make sets. Coordinates that are too far apart were not in order; a set that had
// too little room was cut.
enum State : int64_t { kComplete = 0, kTooWide = 1, kCut = 2 };

FL_KERNEL hash_kernel(const int32_t* coords, int64_t n, int columns, int64_t* out) {
  const int64_t i = this_thread();
  if (i < n) out[i] = static_cast<int64_t>(hash_row(coords + i * columns, columns));
}

// On the device: bounds of the set at hand, and its key layout.
struct Extents {
  int32_t least[kMostColumns], most[kMostColumns];
  int64_t low[kMostColumns], high[kMostColumns];
  Layout layout;
};

FL_KERNEL start_kernel(Extents* extents, int64_t* count, int64_t n, int64_t* state) {
  for (int c = 0; c < kMostColumns; ++c) {
    extents->least[c] = std::numeric_limits<int32_t>::max();
    extents->most[c] = std::numeric_limits<int32_t>::min();
  }
  *count = n;
  *state = kComplete;
}

FL_KERNEL bounds_kernel(const int32_t* coords, int64_t n, int columns, Extents* extents) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int c = 0; c < columns; ++c) {
    int least = std::numeric_limits<int32_t>::max(), most = std::numeric_limits<int32_t>::min();
    for (int64_t i = this_thread(); i < n; i += step) {
      least = min(least, coords[i * columns + c]);
      most = max(most, coords[i * columns + c]);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      least = min(least, __shfl_xor_sync(0xFFFFFFFFu, least, lanes));
      most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, lanes));
    }
    if (threadIdx.x % 32 != 0) continue;
    atomicMin(extents->least + c, least);
    atomicMax(extents->most + c, most);
  }
}

// From the bounds of the first rows, or of the set before, to those of the set that they reach.
FL_KERNEL layout_kernel(Reach reach, bool first, Extents* extents, int64_t* state) {
  int64_t low[kMostColumns], high[kMostColumns];
  for (int c = 0; c < reach.columns; ++c) {
    low[c] = first ? extents->least[c] : extents->low[c];
    high[c] = first ? extents->most[c] : extents->high[c];
    if (c > 0) reach.axes[c - 1].bound(reach.to_fine, low + c, high + c);
    extents->low[c] = low[c];
    extents->high[c] = high[c];
  }
  extents->layout = make_layout(reach.columns, low, high);
  if (extents->layout.words > 1) *state = kTooWide;
}

// What a level starts from, and what each of its slots holds.
struct Source {
  Reach reach;
  const int32_t* rows;
  const int64_t* row_count;
};

struct Slots {
  int32_t* rows;
  uint8_t* full;
  int columns;

  FL_D const int32_t* row(int64_t slot) const { return rows + slot * columns; }

  FL_D bool same(int64_t a, int64_t b) const {
    for (int c = 0; c < columns; ++c)
      if (row(a)[c] != row(b)[c]) return false;
    return true;
  }

  FL_D void copy(int64_t slot, int32_t* out) const {
    for (int c = 0; c < columns; ++c) out[c] = row(slot)[c];
  }
};

FL_KERNEL slot_kernel(Source source, int64_t n, Slots slots, uint32_t* numbers) {
  const int64_t i = this_thread();
  if (i >= n) return;
  const int64_t row = i / source.reach.per_row;
  const uint32_t choice = static_cast<uint32_t>(i - row * source.reach.per_row);
  slots.full[i] =
      row < *source.row_count && source.reach.candidate(source.rows + row * slots.columns, choice,
                                                        slots.rows + i * slots.columns);
  numbers[i] = static_cast<uint32_t>(i);
}

FL_KERNEL key_kernel(Slots slots, const Layout* layout, int64_t n, uint64_t* keys) {
  const int64_t i = this_thread();
  if (i < n) keys[i] = slots.full[i] ? layout->pack_single(slots.row(i)) : kEmpty;
}

// One column of each slot, negative values first, above all for empty ones.
constexpr int kColumnBits = 33;

FL_KERNEL column_kernel(Slots slots, int column, int64_t n, const uint32_t* numbers,
                        uint64_t* keys) {
  const int64_t i = this_thread();
  if (i >= n) return;
  const int64_t slot = numbers[i];
  keys[i] = slots.full[slot] ? static_cast<uint32_t>(slots.row(slot)[column]) ^ 0x80000000u
                             : uint64_t{1} << (kColumnBits - 1);
}

FL_KERNEL begin_kernel(Slots slots, const uint32_t* numbers, int64_t n, uint8_t* begins) {
  const int64_t i = this_thread();
  if (i > n) return;
  begins[i] =
      i < n && slots.full[numbers[i]] && (i == 0 || !slots.same(numbers[i - 1], numbers[i]));
}

// Slots in the order of what they hold: their numbers, which of them begin a run, and how many runs
// begin before each.
struct Sorted {
  Slots slots;
  const uint32_t* number;
  const uint8_t* begin;
  const int64_t* place;
  int64_t count;
};

// How many slots `rows` rows have.
int64_t slots_of(const Reach& reach, int64_t rows) {
  const int64_t n = rows * reach.per_row;
  STD_TORCH_CHECK(n < int64_t{1} << 32,
                  "sparse coordinates: expected fewer than 2^32 candidates, got ", n);
  return n;
}

class Sorter {
 public:
  Sorter(const Source& source, int64_t n, const Layout* layout, bool wide, Stream stream)
      : rows_(sizeof(int32_t) * n * source.reach.columns),
        full_(n),
        numbers_(2 * sizeof(uint32_t) * n),
        begins_(n + 1),
        places_(sizeof(int64_t) * (n + 1)),
        sorted_{{rows_.data<int32_t>(), full_.data<uint8_t>(), source.reach.columns},
                numbers_.data<uint32_t>(),
                begins_.data<uint8_t>(),
                places_.data<int64_t>(),
                n} {
    FL_LAUNCH(slot_kernel, blocks_for(n), kThreads, 0, stream, source, n, sorted_.slots,
              numbers_.data<uint32_t>());
    sorted_.number = wide ? by_columns(stream) : by_keys(layout, stream);
    FL_LAUNCH(begin_kernel, blocks_for(n + 1), kThreads, 0, stream, sorted_.slots, sorted_.number,
              n, begins_.data<uint8_t>());
    exclusive_scan(begins_.data<uint8_t>(), places_.data<int64_t>(), n + 1, stream);
  }

  const Sorted& sorted() const { return sorted_; }

 private:
  const uint32_t* by_keys(const Layout* layout, Stream stream) const {
    const int64_t n = sorted_.count;
    const Scratch memory(2 * sizeof(uint64_t) * n);
    uint64_t* keys = memory.data<uint64_t>();
    uint32_t* numbers = numbers_.data<uint32_t>();
    FL_LAUNCH(key_kernel, blocks_for(n), kThreads, 0, stream, sorted_.slots, layout, n, keys);
    sort_pairs(keys, keys + n, numbers, numbers + n, n, 0, 64, stream);
    return numbers + n;
  }

  // From the last column to the first: each sort keeps the order of those before.
  const uint32_t* by_columns(Stream stream) const {
    const int64_t n = sorted_.count;
    const Scratch memory(2 * sizeof(uint64_t) * n);
    uint64_t* keys = memory.data<uint64_t>();
    uint32_t* from = numbers_.data<uint32_t>();
    uint32_t* to = from + n;
    for (int c = sorted_.slots.columns - 1; c >= 0; --c, std::swap(from, to)) {
      FL_LAUNCH(column_kernel, blocks_for(n), kThreads, 0, stream, sorted_.slots, c, n, from, keys);
      sort_pairs(keys, keys + n, from, to, n, 0, kColumnBits, stream);
    }
    return from;
  }

  Scratch rows_, full_, numbers_, begins_, places_;
  Sorted sorted_;
};

// A level's rows as far as there is room, and how many there are.
struct Level {
  int64_t capacity;
  int32_t* rows;
  int64_t *row_count, *found, *state;
};

FL_KERNEL level_kernel(Sorted sorted, Level level) {
  const int64_t i = this_thread();
  if (i > sorted.count) return;
  const int64_t place = sorted.place[i];
  if (i == sorted.count) {
    *level.found = place;
    *level.row_count = place < level.capacity ? place : level.capacity;
    if (place > level.capacity && *level.state == kComplete) *level.state = kCut;
  } else if (sorted.begin[i] && place < level.capacity) {
    sorted.slots.copy(sorted.number[i], level.rows + place * sorted.slots.columns);
  }
}

struct Runs {
  int32_t* rows;
  int64_t *inverse, *first, *counts, *found, *starts;
};

FL_KERNEL run_kernel(Sorted sorted, Runs runs) {
  const int64_t i = this_thread();
  if (i > sorted.count) return;
  const int64_t place = sorted.place[i];
  if (i == sorted.count) {
    *runs.found = place;
    return;
  }
  const int64_t slot = sorted.number[i];
  runs.inverse[slot] = place + sorted.begin[i] - 1;
  if (!sorted.begin[i]) return;
  sorted.slots.copy(slot, runs.rows + place * sorted.slots.columns);
  runs.first[place] = slot;
  runs.starts[place] = i;
}

FL_KERNEL count_kernel(Runs runs, int64_t n) {
  const int64_t i = this_thread();
  if (i >= n || i >= *runs.found) return;
  runs.counts[i] = (i + 1 < *runs.found ? runs.starts[i + 1] : n) - runs.starts[i];
}

// Rows that reach themselves alone.
Reach same_rows(int columns) {
  Reach reach{};
  reach.columns = columns;
  reach.per_row = 1;
  for (int a = 0; a + 1 < columns; ++a) {
    reach.axes[a] = {1, 1, 1, 0, std::numeric_limits<int32_t>::min(), int64_t{1} << 31, 0};
    reach.choices[a] = 1;
  }
  return reach;
}

// What stays on the device while sets are made: bounds, the number of rows before and after each
// level, and, for the host to read at the end, the State and how many rows each level would have.
class Progress {
 public:
  Progress(const Tensor& coords, int64_t levels, Stream stream)
      : levels_(levels),
        stream_(stream),
        memory_(sizeof(Extents) + sizeof(int64_t) * (2 * levels + 2)),
        extents_(memory_.data<Extents>()),
        state_(reinterpret_cast<int64_t*>(extents_ + 1)) {
    const int64_t n = coords.size(0);
    const int64_t most_blocks = 2 * device_sm_count();
    FL_LAUNCH(start_kernel, 1, 1, 0, stream, extents_, count(0), n, state_);
    FL_LAUNCH(bounds_kernel, std::min(blocks_for(n), most_blocks), kThreads, 0, stream,
              input<int32_t>(coords), n, static_cast<int>(coords.size(1)), extents_);
  }

  Extents* extents() const { return extents_; }
  int64_t* state() const { return state_; }
  int64_t* found(int64_t level) const { return state_ + 1 + level; }
  int64_t* count(int64_t level) const { return state_ + 1 + levels_ + level; }

  // Waits. The State, then the number of rows of each level.
  Numbers read() const {
    Numbers numbers(levels_ + 1);
    copy_to_host(numbers.data(), state_, sizeof(int64_t) * numbers.size(), stream_);
    return numbers;
  }

 private:
  int64_t levels_;
  Stream stream_;
  Scratch memory_;
  Extents* extents_;
  int64_t* state_;
};

Tensor head(Tensor tensor, int64_t count) { return torch::stable::narrow(tensor, 0, 0, count); }

// Fills the sets as far as they go; returns what Progress reads.
Numbers make_levels(const Tensor& coords, const std::vector<Reach>& reaches,
                    const std::vector<Tensor>& sets, bool wide, Stream stream) {
  const int64_t levels = static_cast<int64_t>(reaches.size());
  const Progress progress(coords, levels, stream);
  Extents* extents = progress.extents();
  Tensor from = coords;
  for (int64_t level = 0; level < levels; ++level) {
    const Source source{reaches[level], input<int32_t>(from), progress.count(level)};
    if (!wide)
      FL_LAUNCH(layout_kernel, 1, 1, 0, stream, source.reach, level == 0, extents,
                progress.state());
    const Sorter sorter(source, slots_of(source.reach, from.size(0)), &extents->layout, wide,
                        stream);
    from = sets[level];
    const Level result{from.size(0), output<int32_t>(from), progress.count(level + 1),
                       progress.found(level), progress.state()};
    FL_LAUNCH(level_kernel, blocks_for(sorter.sorted().count + 1), kThreads, 0, stream,
              sorter.sorted(), result);
  }
  return progress.read();
}

constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();

// The most rows that each level can have.
Numbers most_rows(int64_t n, const std::vector<Reach>& reaches) {
  Numbers most;
  for (const Reach& reach : reaches) most.push_back(n = std::min(n * reach.per_row, kMostRows));
  return most;
}

// Coarse sets are seldom larger than twice the first one: room for more is given when asked for.
Numbers guess_rows(int64_t n, const std::vector<Reach>& reaches) {
  Numbers rows = most_rows(n, reaches);
  for (std::size_t level = 0; level < rows.size(); ++level)
    if (!reaches[level].to_fine) rows[level] = std::min(rows[level], 1024 + 2 * n);
  return rows;
}

struct CudaCoordinates {
  static void hash(const int32_t* coords, int64_t n, int columns, int64_t* out,
                   const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH(hash_kernel, blocks_for(n), kThreads, 0, current_stream(like.get_device_index()),
              coords, n, columns, out);
  }

  static UniqueTensors unique(const Tensor& coords, int columns, bool wide = false) {
    const DeviceGuard guard(coords.get_device_index());
    const Stream stream = current_stream(coords.get_device_index());
    const int64_t n = coords.size(0);
    const Tensor rows = new_empty(coords, {n, columns});
    const Tensor inverse = new_empty(coords, {n}, ScalarType::Long);
    const Tensor first = new_empty(coords, {n}, ScalarType::Long);
    const Tensor counts = new_empty(coords, {n}, ScalarType::Long);
    const Progress progress(coords, 1, stream);
    const Source source{same_rows(columns), input<int32_t>(coords), progress.count(0)};
    if (!wide)
      FL_LAUNCH(layout_kernel, 1, 1, 0, stream, source.reach, true, progress.extents(),
                progress.state());
    const Sorter sorter(source, n, &progress.extents()->layout, wide, stream);
    const Scratch starts(sizeof(int64_t) * n);
    const Runs runs{output<int32_t>(rows),   output<int64_t>(inverse), output<int64_t>(first),
                    output<int64_t>(counts), progress.found(0),        starts.data<int64_t>()};
    FL_LAUNCH(run_kernel, blocks_for(n + 1), kThreads, 0, stream, sorter.sorted(), runs);
    FL_LAUNCH(count_kernel, blocks_for(n), kThreads, 0, stream, runs, n);
    const Numbers found = progress.read();
    if (found[0] == kTooWide) return unique(coords, columns, true);
    const int64_t m = found[1];
    return {head(rows, m), inverse, head(first, m), head(counts, m)};
  }

  static std::vector<Tensor> reached(const Tensor& coords, const std::vector<Reach>& reaches) {
    const DeviceGuard guard(coords.get_device_index());
    const Stream stream = current_stream(coords.get_device_index());
    const Numbers most = most_rows(coords.size(0), reaches);
    Numbers room = guess_rows(coords.size(0), reaches);
    for (bool wide = false;;) {
      std::vector<Tensor> sets;
      for (int64_t rows : room) sets.push_back(new_empty(coords, {rows, coords.size(1)}));
      const Numbers found = make_levels(coords, reaches, sets, wide, stream);
      for (std::size_t level = 0; level < sets.size(); ++level) {
        const int64_t count = found[level + 1];
        if (found[0] == kComplete) sets[level] = head(sets[level], count);
        if (found[0] != kCut || count <= room[level]) continue;
        STD_TORCH_CHECK(count <= kMostRows,
                        "sparse_reached: expected sets of fewer than 2^31 rows, ", "got ", count);
        room[level] = std::min(most[level], 2 * count);
      }
      if (found[0] == kComplete) return sets;
      wide |= found[0] == kTooWide;
    }
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_hash", TORCH_BOX(&sparse_hash<CudaCoordinates>));
  m.impl("sparse_unique", TORCH_BOX(&sparse_unique<CudaCoordinates>));
  m.impl("sparse_reached", TORCH_BOX(&sparse_reached<CudaCoordinates>));
}

}  // namespace fl::sparse
