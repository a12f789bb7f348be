// SPDX-License-Identifier: Apache-2.0
//
// What the GEMM kernels of convolution share, whatever multiplies: which rows and taps a block
// works on, and what becomes of its sums.
//
//   implicit   a block owns a tile of output rows in the order of one split (convolution_plan.h)
//              and loops over the taps that the tile has. All splits but one leave partial sums;
//              the last to start, the middle split, which in a submanifold map every row has, waits
//              for them, adds them to its own in a fixed order and finishes the rows. A row without
//              taps in a split leaves nothing there, and on surfaces most rows are such: partial
//              sums are a fraction of what a buffer for all taps would move, and nothing is added
//              atomically. All splits share one launch, so that no card idles between them.
//   grouped    a block owns a tile of one tap's pairs and leaves a partial sum for each pair;
//              another launch adds up every output row's pairs, tap by tap. For few rows: the tiles
//              of all taps run side by side.
#pragma once

#include <cstdint>

#include "core/portable.h"
#include "sparse/convolution.h"
#include "sparse/convolution_plan.h"
#include "sparse/rows_cuda.h"

namespace fl::sparse {

template <typename T>
struct Epilogue {
  const T* bias;
  const T* residual;
  T* out;
  Activation activation;
  Sum<T> slope;
  int channels;
};

// Of the blocks of a launch in which some wait for others; zeros before it.
struct Progress {
  int started, left_partial_sums;
};

template <typename T>
struct GemmArgs {
  const T* features;
  const T* weight;
  int n_in, channels_in, channels_out, n_taps;
  int64_t n_out;
  Sum<T>* partial;
  Epilogue<T> epilogue;
  // Implicit.
  const int32_t* table;
  const int32_t* order;
  const int32_t* tile_masks;
  int splits, split_taps, tile_rows;
  Progress* progress;  // null: no block waits for others
  // Grouped.
  const int32_t* in_rows;
  const int64_t* starts;  // null: implicit
  int64_t n_pairs;
};

template <typename T>
FL_HD int finishing_split(const GemmArgs<T>& a) {
  return a.splits / 2;
}

template <typename T>
struct Tile {
  const int32_t* rows;  // input rows of its first tap
  int64_t stride;       // to those of the next tap
  int first_tap;
  unsigned taps;  // those that some row has, bit 0 the first
  int count;      // rows
  int64_t place;  // of its first row
  bool finishes;  // else it leaves partial sums
  Sum<T>* partial;
};

// A block's part of the work. The n-th block to start takes the n-th part, whichever it is: those
// that a block waits for have started before it, or they might never find room to run.
template <typename T>
FL_D int draw_part(const GemmArgs<T>& a) {
  if (a.progress == nullptr) return static_cast<int>(blockIdx.x);
  FL_SHARED(int, drawn, 1);
  if (threadIdx.x == 0) drawn[0] = atomicAdd(&a.progress->started, 1);
  __syncthreads();
  return drawn[0];
}

template <typename T>
FL_D void report_partial_sums(const GemmArgs<T>& a) {
  if (a.progress == nullptr) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(&a.progress->left_partial_sums, 1);
}

template <int kRows, typename T>
FL_D void await_partial_sums(const GemmArgs<T>& a, int column_tiles) {
  if (a.progress == nullptr) return;
  if (threadIdx.x == 0) {
    const volatile int* const left = &a.progress->left_partial_sums;
    const int64_t tiles = (a.n_out + kRows - 1) / kRows;
    while (*left < (a.splits - 1) * tiles * column_tiles) __nanosleep(100);
    __threadfence();
  }
  __syncthreads();
}

// Tap and part of a list of pairs, tap by tap, when each tap's pairs are cut into parts of `size`.
struct Part {
  int tap = -1;
  int64_t first = 0;
  int count = 0;
};

// A tap's pairs: where they begin and how many. Starts that lie lead nowhere outside the pairs.
struct TapPairs {
  int64_t first, count;

  FL_D TapPairs(const int64_t* starts, int64_t n_pairs, int tap)
      : first(inside(starts[tap], 0, n_pairs)),
        count(inside(starts[tap + 1], first, n_pairs) - first) {}

 private:
  FL_D static int64_t inside(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
  }
};

FL_D int64_t count_parts(const int64_t* starts, int64_t n_pairs, int tap, int size) {
  return (TapPairs(starts, n_pairs, tap).count + size - 1) / size;
}

constexpr unsigned kWholeWarp = 0xffffffffu;

// For whole warps that ask for the same index: each lane looks at a tap.
FL_D Part find_part(const int64_t* starts, int64_t n_pairs, int n_taps, int size, int64_t index) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Part part;
  for (int tap0 = 0; tap0 < n_taps; tap0 += 32) {
    const int tap = tap0 + lane;
    const int64_t parts = tap < n_taps ? count_parts(starts, n_pairs, tap, size) : 0;
    int64_t end = parts;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int64_t before = __shfl_up_sync(kWholeWarp, end, static_cast<unsigned>(distance));
      if (lane >= distance) end += before;
    }
    const unsigned beyond = __ballot_sync(kWholeWarp, index < end);
    if (beyond != 0) {
      const int found = __ffs(static_cast<int>(beyond)) - 1;
      index -= __shfl_sync(kWholeWarp, end - parts, found);
      const TapPairs pairs(starts, n_pairs, tap0 + found);
      const int64_t left = pairs.count - index * size;
      part.tap = tap0 + found;
      part.first = pairs.first + index * size;
      part.count = static_cast<int>(left < size ? left : size);
      break;
    }
    index -= __shfl_sync(kWholeWarp, end, 31);
  }
  return part;
}

// The parts of all taps before one, for whole warps that ask for the same.
FL_D int64_t count_parts_before(const int64_t* starts, int64_t n_pairs, int tap, int size) {
  int64_t parts = 0;
  for (int t = static_cast<int>(threadIdx.x) % 32; t < tap; t += 32)
    parts += count_parts(starts, n_pairs, t, size);
  for (int distance = 16; distance > 0; distance /= 2)
    parts += __shfl_xor_sync(kWholeWarp, parts, distance);
  return parts;
}

// At least as many parts as find_part finds, for a host that does not know the starts.
inline int64_t most_parts(int64_t n_pairs, int64_t n_taps, int64_t size) {
  return n_pairs / size + n_taps;
}

template <int kRows, typename T>
FL_D Tile<T> find_tile(const GemmArgs<T>& a, int index) {
  Tile<T> tile{};
  if (a.starts != nullptr) {
    const Part part = find_part(a.starts, a.n_pairs, a.n_taps, kRows, index);
    tile.first_tap = part.tap;
    tile.taps = part.tap >= 0 ? 1u : 0u;
    tile.rows = a.in_rows + part.first;
    tile.count = part.count;
    tile.partial = a.partial + part.first * a.channels_out;
    return tile;
  }
  const int n_out = static_cast<int>(a.n_out), own_tiles = (n_out - 1) / kRows + 1;
  const int before = a.splits - 1, partial_tiles = before * own_tiles;
  tile.finishes = index >= partial_tiles;
  const int last = finishing_split(a), slot = tile.finishes ? 0 : index % before;
  const int split = tile.finishes ? last : slot < last ? slot : slot + 1;
  // The first places have the fewest taps: they come last, lest the last blocks be the longest.
  tile.place = own_tiles - 1 - (tile.finishes ? index - partial_tiles : index / before);
  tile.place *= kRows;
  const int left = n_out - static_cast<int>(tile.place);
  tile.count = left < kRows ? left : kRows;
  tile.first_tap = split * a.split_taps;
  // No more taps than there are, and 32 at most, whatever the mask says.
  const int taps_left = a.n_taps - tile.first_tap;
  const int taps = taps_left < a.split_taps ? taps_left : a.split_taps;
  const unsigned known = taps <= 0 ? 0u : ~0u >> (32 - taps);
  const int tile_log = a.tile_rows == 64 ? 6 : 7, masks = ((n_out - 1) >> tile_log) + 1;
  tile.taps =
      static_cast<unsigned>(a.tile_masks[int64_t{split} * masks + (tile.place >> tile_log)]) &
      known;
  tile.stride = a.n_out;
  tile.rows = a.table + tile.first_tap * a.n_out + tile.place;
  tile.partial = a.partial + (slot * a.n_out + tile.place) * a.channels_out;
  return tile;
}

// The tile's taps one after another, and the input rows of each of its rows at each of them.
// Several reads of the table are on their way at once.
template <int kRows, int kThreads, typename T>
FL_D int list_rows(const GemmArgs<T>& a, const Tile<T>& tile, uint8_t* taps, int32_t* rows) {
  constexpr int kTogether = 4;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 32 && (tile.taps >> thread & 1u) != 0)
    taps[__popc(tile.taps & ((1u << thread) - 1u))] = static_cast<uint8_t>(thread);
  __syncthreads();
  const int n_taps = __popc(tile.taps), items = n_taps * kRows;
  for (int first = thread; first < items; first += kTogether * kThreads) {
    int32_t found[kTogether];
    FL_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int item = first + i * kThreads, row = item % kRows;
      found[i] = item < items && row < tile.count
                     ? tile.rows[taps[item / kRows] * tile.stride + row]
                     : int32_t{-1};
    }
    FL_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int item = first + i * kThreads;
      if (item < items) rows[item] = found[i] < a.n_in ? found[i] : -1;
    }
  }
  __syncthreads();
  return n_taps;
}

// A function of its own: unrolled over a tile it would drive the loop over steps out of the cache
// of instructions.
template <typename S>
__attribute__((noinline)) FL_D S activate_apart(Activation kind, S x, S slope) {
  return activate(kind, x, slope);
}

template <int V, typename S>
FL_D void activate_all(Activation kind, S* sums, S slope) {
  if (kind == Activation::none) return;
  if (kind == Activation::relu) {
    FL_UNROLL
    for (int k = 0; k < V; ++k) sums[k] = activate(Activation::relu, sums[k], slope);
    return;
  }
  FL_UNROLL
  for (int k = 0; k < V; ++k) sums[k] = activate_apart(kind, sums[k], slope);
}

template <int V, typename T>
FL_D void finish_row(const Epilogue<T>& e, int64_t row, int column, Sum<T>* sums) {
  const int64_t at = row * e.channels + column;
  Pack<T, V> bias{}, residual{};
  if (e.bias != nullptr) bias = load_pack<V>(e.bias + column);
  if (e.residual != nullptr) residual = load_pack<V>(e.residual + at);
  FL_UNROLL
  for (int k = 0; k < V; ++k) {
    if (e.bias != nullptr) sums[k] += widen(bias.v[k]);
    if (e.residual != nullptr) sums[k] += widen(residual.v[k]);
  }
  activate_all<V>(e.activation, sums, e.slope);
  store_sums<V, T>(e.out + at, sums);
}

template <int V, typename S>
FL_D void add_pack(S* sums, const S* from) {
  // 16 bytes at most at once: partial sums of 16-bit features are twice as wide as those.
  constexpr int kWidth = V * sizeof(S) > 16 ? 16 / sizeof(S) : V;
  FL_UNROLL
  for (int k = 0; k < V; k += kWidth) {
    const Pack<S, kWidth> pack = load_pack<kWidth>(from + k);
    FL_UNROLL
    for (int i = 0; i < kWidth; ++i) sums[k + i] += pack.v[i];
  }
}

template <int V, typename S>
FL_D void store_partial(S* to, const S* sums) {
  constexpr int kWidth = V * sizeof(S) > 16 ? 16 / sizeof(S) : V;
  FL_UNROLL
  for (int k = 0; k < V; k += kWidth) {
    Pack<S, kWidth> pack;
    FL_UNROLL
    for (int i = 0; i < kWidth; ++i) pack.v[i] = sums[k + i];
    store_pack<kWidth>(to + k, pack);
  }
}

// For each row of a tile: the output row, and where the other splits, one after another, left its
// partial sums; -1 for nothing.
template <int kRows, int kThreads, typename T>
FL_D void list_places(const GemmArgs<T>& a, const Tile<T>& tile, int32_t* places) {
  const int last = finishing_split(a);
  for (int r = static_cast<int>(threadIdx.x); r < kRows; r += kThreads) {
    const int32_t found = r < tile.count ? a.order[last * a.n_out + tile.place + r] : int32_t{-1};
    const int32_t row = found < a.n_out ? found : -1;
    places[r] = row;
    for (int slot = 0; slot < a.splits - 1; ++slot) {
      const int split = slot < last ? slot : slot + 1;
      const int32_t place = row >= 0 ? a.order[(a.splits + split) * a.n_out + row] : int32_t{-1};
      places[(slot + 1) * kRows + r] = place < a.n_out ? place : -1;
    }
  }
}

// How many ints a block of tiles keeps for list_rows and list_places.
template <typename T>
std::size_t listed_rows(const GemmArgs<T>& a, int tile_rows) {
  return static_cast<std::size_t>(a.split_taps + a.splits) * tile_rows;
}

// Sums of a tile lie in shared memory, a row every `stride`; the block writes them, V at once. A
// thread reads what several of its runs need before it writes any.
template <int V, int kRows, int kColumns, int kThreads, typename T>
FL_D void store_tile(const GemmArgs<T>& a, const Tile<T>& tile, int column0,
                     const Sum<T>* tile_sums, int stride, const int32_t* places) {
  constexpr int kRuns = kColumns / V, kItems = kRows * kRuns / kThreads;
  constexpr int kTogether = kItems % 8 == 0   ? 8
                            : kItems % 6 == 0 ? 6
                            : kItems % 4 == 0 ? 4
                            : kItems % 2 == 0 ? 2
                                              : 1;
  static_assert(kRows * kRuns % kThreads == 0);
  for (int first = 0; first < kItems; first += kTogether) {
    Sum<T> sums[kTogether][V];
    int rows[kTogether], columns[kTogether];
    FL_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int item = static_cast<int>(threadIdx.x) + (first + i) * kThreads;
      const int c = item % kRuns * V;
      rows[i] = item / kRuns, columns[i] = column0 + c;
      if (rows[i] >= tile.count || columns[i] >= a.channels_out) rows[i] = -1;
      FL_UNROLL
      for (int k = 0; k < V; ++k) sums[i][k] = tile_sums[item / kRuns * stride + c + k];
    }
    if (!tile.finishes) {
      FL_UNROLL
      for (int i = 0; i < kTogether; ++i)
        if (rows[i] >= 0)
          store_partial<V>(
              tile.partial + static_cast<int64_t>(rows[i]) * a.channels_out + columns[i], sums[i]);
      continue;
    }
    for (int slot = 0; slot < a.splits - 1; ++slot) {
      FL_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int64_t place = rows[i] >= 0 ? places[(slot + 1) * kRows + rows[i]] : -1;
        if (place >= 0)
          add_pack<V>(sums[i], a.partial + (slot * a.n_out + place) * a.channels_out + columns[i]);
      }
    }
    FL_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int64_t row = rows[i] >= 0 ? places[rows[i]] : -1;
      if (row >= 0) finish_row<V>(a.epilogue, row, columns[i], sums[i]);
    }
  }
}

}  // namespace fl::sparse
