// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of reductions over segments: a thread a run of channels of a short segment, or of a
// block of a long one; then a thread block a long segment.
#pragma once

#include "core/device_guard.h"
#include "core/sort_scan.h"
#include "sparse/rows_cuda.h"
#include "sparse/segment.h"

namespace fl::sparse {

constexpr int kRowsAtOnce = 8;

// What a thread has reduced so far.
template <Reduction kReduction, int V, typename T>
struct Held {
  static constexpr bool kPicks = kReduction == Reduction::max || kReduction == Reduction::min;

  Sum<T> sums[V];
  int32_t rows[kPicks ? V : 1];
  int64_t count;

  FL_D Held() : count(0) {
    FL_UNROLL
    for (int k = 0; k < V; ++k) sums[k] = Sum<T>(0);
    FL_UNROLL
    for (int k = 0; k < (kPicks ? V : 1); ++k) rows[k] = -1;
  }

  // The first of equals stays, and what is not a number beats what is.
  FL_D void keep(int k, Sum<T> value, int32_t row) {
    const Sum<T> held = sums[k];
    const bool beyond = kReduction == Reduction::max ? value > held : value < held;
    const bool better = count == 0 || beyond || (value != value && held == held);
    sums[k] = better ? value : held;
    rows[k] = better ? row : rows[k];
  }

  FL_D void join_row(const Pack<T, V>& pack, Sum<T> weight, int32_t row) {
    FL_UNROLL
    for (int k = 0; k < V; ++k) {
      if constexpr (kPicks)
        keep(k, widen(pack.v[k]), row);
      else
        sums[k] += weight * widen(pack.v[k]);
    }
    ++count;
  }

  // What comes behind.
  FL_D void join(const Held& next) {
    if (next.count == 0) return;
    FL_UNROLL
    for (int k = 0; k < V; ++k) {
      if constexpr (kPicks)
        keep(k, next.sums[k], next.rows[k]);
      else
        sums[k] += next.sums[k];
    }
    count += next.count;
  }

  FL_D void store(const ReduceArgs<T>& a, int64_t segment, int64_t channel) {
    const int64_t at = segment * a.channels + channel;
    if constexpr (kPicks) {
      Pack<int32_t, V> picked;
      FL_UNROLL
      for (int k = 0; k < V; ++k) picked.v[k] = rows[k];
      store_pack<V>(a.picked + at, picked);
    }
    if (a.reduction == Reduction::mean && count > 0) {
      FL_UNROLL
      for (int k = 0; k < V; ++k) sums[k] /= static_cast<Sum<T>>(count);
    }
    store_sums<V>(a.out + at, sums);
  }
};

template <Reduction kReduction, int V, typename T>
FL_D Held<kReduction, V, T> reduce_range(const ReduceArgs<T>& a, Range range, int64_t channel) {
  Held<kReduction, V, T> held;
  for (int64_t first = range.begin; first < range.end; first += kRowsAtOnce) {
    int32_t rows[kRowsAtOnce];
    Sum<T> weights[kRowsAtOnce];
    Pack<T, V> packs[kRowsAtOnce];
    FL_UNROLL
    for (int k = 0; k < kRowsAtOnce; ++k) {
      const int32_t item = first + k < range.end ? a.segments.order[first + k] : -1;
      rows[k] = item < 0 ? -1 : static_cast<int32_t>(a.row_of(item));
      weights[k] = rows[k] >= 0 && a.weights != nullptr ? a.weights[item] : Sum<T>(1);
    }
    FL_UNROLL
    for (int k = 0; k < kRowsAtOnce; ++k)
      packs[k] =
          rows[k] >= 0 ? load_pack<V>(a.features + rows[k] * a.channels + channel) : Pack<T, V>{};
    FL_UNROLL
    for (int k = 0; k < kRowsAtOnce; ++k)
      if (rows[k] >= 0) held.join_row(packs[k], weights[k], rows[k]);
  }
  return held;
}

template <Reduction kReduction, int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) short_segment_kernel(ReduceArgs<T> a) {
  const int64_t segment = this_row();
  if (segment >= a.segments.n_segments) return;
  const Range range = a.segments.range(segment);
  if (a.segments.is_long(range)) return;
  const int64_t step = static_cast<int64_t>(blockDim.x) * V;
  for (int64_t channel = static_cast<int64_t>(threadIdx.x) * V; channel < a.channels;
       channel += step)
    reduce_range<kReduction, V>(a, range, channel).store(a, segment, channel);
}

template <Reduction kReduction, int V, typename T>
struct PartMemory {
  using State = Held<kReduction, V, T>;

  Sum<T>* sums;     // [n_parts, channels]
  int32_t* rows;    // the same, for max and min
  int64_t* counts;  // [n_parts]
  int32_t* begun;   // [n_parts]: the long segment that begins with the part, or -1
  int64_t channels;

  FL_D void store(int64_t part, int64_t channel, const State& held) const {
    const int64_t at = part * channels + channel;
    FL_UNROLL
    for (int k = 0; k < V; ++k) {
      sums[at + k] = held.sums[k];
      if constexpr (State::kPicks) rows[at + k] = held.rows[k];
    }
    if (channel == 0) counts[part] = held.count;
  }
  FL_D State load(int64_t part, int64_t channel) const {
    const int64_t at = part * channels + channel;
    State held;
    FL_UNROLL
    for (int k = 0; k < V; ++k) {
      held.sums[k] = sums[at + k];
      if constexpr (State::kPicks) held.rows[k] = rows[at + k];
    }
    held.count = counts[part];
    return held;
  }
};

template <Reduction kReduction, int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2)
    part_kernel(ReduceArgs<T> a, PartMemory<kReduction, V, T> memory) {
  const int64_t i = this_row();
  if (i >= 2 * a.segments.n_blocks()) return;
  const SegmentPart part = part_of_block(a.segments, i / 2, static_cast<int>(i % 2));
  if (threadIdx.x == 0) memory.begun[i] = part.starts_here ? static_cast<int>(part.segment) : -1;
  if (part.segment < 0) return;
  const int64_t step = static_cast<int64_t>(blockDim.x) * V;
  for (int64_t channel = static_cast<int64_t>(threadIdx.x) * V; channel < a.channels;
       channel += step)
    memory.store(i, channel, reduce_range<kReduction, V>(a, part.range, channel));
}

// Joins the parts of a long segment: each of blockDim.y threads a run of them, and then the
// threads' results, in order.
template <Reduction kReduction, int V, typename T>
FL_D void join_parts(const ReduceArgs<T>& a, const PartMemory<kReduction, V, T>& memory,
                     int64_t segment, int64_t channel, Held<kReduction, V, T>* states) {
  const PartPlaces places(a.segments.range(segment));
  const int64_t width = blockDim.x, splits = blockDim.y, split = threadIdx.y;
  const bool inside = channel < a.channels;
  Held<kReduction, V, T> held;
  const int64_t begin = places.count() * split / splits;
  const int64_t end = inside ? places.count() * (split + 1) / splits : begin;
  for (int64_t k = begin; k < end; ++k) held.join(memory.load(places[k], channel));
  states[split * width] = held;
  for (int64_t distance = 1; distance < splits; distance *= 2) {
    __syncthreads();
    if (split % (2 * distance) == 0 && split + distance < splits)
      states[split * width].join(states[(split + distance) * width]);
  }
  if (split == 0 && inside) states[0].store(a, segment, channel);
  __syncthreads();
}

// Few parts begin a segment: a block looks through many. Columns of blocks share out the channels.
template <Reduction kReduction, int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2)
    join_kernel(ReduceArgs<T> a, PartMemory<kReduction, V, T> memory) {
  using State = Held<kReduction, V, T>;
  FL_SHARED(unsigned char, bytes, sizeof(State) * kRowThreads);
  State* const states = reinterpret_cast<State*>(&bytes[0]) + threadIdx.x;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  for (int64_t i = blockIdx.x; i < 2 * a.segments.n_blocks(); i += gridDim.x)
    if (memory.begun[i] >= 0) join_parts(a, memory, memory.begun[i], column * V, states);
}

template <Reduction kReduction, int V, typename T>
void reduce_segments(const ReduceArgs<T>& a, Stream stream) {
  const RowShape shape(a.channels, V);
  FL_LAUNCH((short_segment_kernel<kReduction, V, T>), shape.blocks(a.segments.n_segments),
            shape.block, 0, stream, a);
  if (a.segments.n <= kBlockRows || a.channels == 0) return;
  const int64_t n_parts = 2 * a.segments.n_blocks();
  const bool picks = a.picks();
  const Scratch sums(sizeof(Sum<T>) * n_parts * a.channels);
  const Scratch rows(sizeof(int32_t) * (picks ? n_parts * a.channels : 1));
  const Scratch counts(sizeof(int64_t) * n_parts), begun(sizeof(int32_t) * n_parts);
  const PartMemory<kReduction, V, T> memory{sums.data<Sum<T>>(), rows.data<int32_t>(),
                                            counts.data<int64_t>(), begun.data<int32_t>(),
                                            a.channels};
  FL_LAUNCH((part_kernel<kReduction, V, T>), shape.blocks(n_parts), shape.block, 0, stream, a,
            memory);
  constexpr int64_t most_blocks = 512;
  constexpr int columns = 4;
  const RowShape narrow(a.channels, V, columns);
  const int64_t per_block = static_cast<int64_t>(narrow.block.x) * V;
  const dim3 grid(static_cast<unsigned>(n_parts < most_blocks ? n_parts : most_blocks),
                  static_cast<unsigned>((a.channels + per_block - 1) / per_block));
  FL_LAUNCH((join_kernel<kReduction, V, T>), grid, narrow.block, 0, stream, a, memory);
}

// Means are sums until they are stored.
template <typename T>
void reduce_on_gpu(const ReduceArgs<T>& a, const Tensor& like) {
  const DeviceGuard guard(like.get_device_index());
  const Stream stream = current_stream(like.get_device_index());
  dispatch_width<T>(a.channels, is_aligned(a.features), [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (a.reduction == Reduction::max)
      reduce_segments<Reduction::max, kWidth>(a, stream);
    else if (a.reduction == Reduction::min)
      reduce_segments<Reduction::min, kWidth>(a, stream);
    else
      reduce_segments<Reduction::sum, kWidth>(a, stream);
  });
}

}  // namespace fl::sparse
