// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight: for each tap a product of gathered features, transposed, with
// gathered gradients. Each tap's pairs are cut into chunks of a fixed size; a block adds up one
// chunk for one tile of the weight, and another launch adds the chunks of a tap in order.
#pragma once

#include "sparse/convolution_gemm.h"
#include "sparse/convolution_mma.h"

namespace fl::sparse {

template <typename T>
struct GradientArgs {
  const T* features;
  const T* gradient;
  int n_in, n_out, channels_in, channels_out, n_taps;
  const int32_t* in_rows;
  const int32_t* out_rows;
  const int64_t* starts;
  int64_t n_pairs;
  int chunk;            // pairs
  int64_t chunks;       // at least as many as there are
  int own_in, own_out;  // of a group
  Sum<T>* partial;      // [chunks, own_in, channels_out]

  FL_HD Sum<T>* partial_of(int64_t index) const { return partial + index * own_in * channels_out; }
};

constexpr int kMostChunk = 2048, kGradientTile = 64;

// The rows of a chunk's pairs; -1 where there is none, or no such row.
template <int kThreads, typename T>
FL_D void list_pairs(const GradientArgs<T>& a, const Part& part, int32_t* in_rows,
                     int32_t* out_rows) {
  for (int i = static_cast<int>(threadIdx.x); i < a.chunk; i += kThreads) {
    const int32_t from = i < part.count ? a.in_rows[part.first + i] : int32_t{-1};
    const int32_t to = i < part.count ? a.out_rows[part.first + i] : int32_t{-1};
    const bool good = from >= 0 && from < a.n_in && to >= 0 && to < a.n_out;
    in_rows[i] = good ? from : -1;
    out_rows[i] = good ? to : -1;
  }
  __syncthreads();
}

// One step of an operand: [kDepth pairs][kGradientTile channels].
template <int kDepth, int kThreads, int kStride, typename T, typename S>
FL_D void load_plain(S* to, const T* from, const int32_t* rows, int first, int end, int channel0,
                     int channels) {
  for (int item = static_cast<int>(threadIdx.x); item < kDepth * kGradientTile; item += kThreads) {
    const int pair = first + item / kGradientTile, channel = channel0 + item % kGradientTile;
    const int32_t row = pair < end && channel < channels ? rows[pair] : int32_t{-1};
    S value{};
    if (row >= 0) {
      const T found = from[static_cast<int64_t>(row) * channels + channel];
      if constexpr (std::is_same<S, T>::value)
        value = found;
      else
        value = widen(found);
    }
    to[item / kGradientTile * kStride + item % kGradientTile] = value;
  }
}

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) plain_gradient_kernel(GradientArgs<T> a) {
  using S = Sum<T>;
  constexpr int kDepth = 16, kThreads = 256, kEach = 4, kStride = kGradientTile;
  FL_DYNAMIC_SHARED(int32_t, rows);
  FL_SHARED(S, from, kDepth * kStride);
  FL_SHARED(S, to, kDepth * kStride);
  const Part part = find_part(a.starts, a.n_pairs, a.n_taps, a.chunk, blockIdx.x);
  if (part.tap < 0) return;
  int32_t* const in_rows = &rows[0];
  int32_t* const out_rows = in_rows + a.chunk;
  list_pairs<kThreads>(a, part, in_rows, out_rows);
  const int row0 = static_cast<int>(blockIdx.y) * kGradientTile;
  const int column0 = static_cast<int>(blockIdx.z) * kGradientTile;
  const int my_row = static_cast<int>(threadIdx.x) / 16 * kEach;
  const int my_column = static_cast<int>(threadIdx.x) % 16 * kEach;
  S sums[kEach][kEach] = {};
  for (int first = 0; first < part.count; first += kDepth) {
    load_plain<kDepth, kThreads, kStride>(&from[0], a.features, in_rows, first, part.count, row0,
                                          a.channels_in);
    load_plain<kDepth, kThreads, kStride>(&to[0], a.gradient, out_rows, first, part.count, column0,
                                          a.channels_out);
    __syncthreads();
    FL_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      S x[kEach], g[kEach];
      FL_UNROLL
      for (int i = 0; i < kEach; ++i) {
        x[i] = from[d * kStride + my_row + i];
        g[i] = to[d * kStride + my_column + i];
      }
      FL_UNROLL
      for (int i = 0; i < kEach; ++i) FL_UNROLL
      for (int j = 0; j < kEach; ++j) sums[i][j] += x[i] * g[j];
    }
    __syncthreads();
  }
  S* const partial = a.partial_of(blockIdx.x);
  for (int i = 0; i < kEach; ++i)
    for (int j = 0; j < kEach; ++j) {
      const int row = row0 + my_row + i, column = column0 + my_column + j;
      if (row < a.channels_in && column < a.channels_out)
        partial[static_cast<int64_t>(row) * a.channels_out + column] = sums[i][j];
    }
}

// Groups of channels: a thread a value of the weight.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) grouped_gradient_kernel(GradientArgs<T> a) {
  FL_DYNAMIC_SHARED(int32_t, rows);
  const Part part = find_part(a.starts, a.n_pairs, a.n_taps, a.chunk, blockIdx.x);
  if (part.tap < 0) return;
  int32_t* const in_rows = &rows[0];
  int32_t* const out_rows = in_rows + a.chunk;
  list_pairs<256>(a, part, in_rows, out_rows);
  const int64_t values = static_cast<int64_t>(a.own_in) * a.channels_out;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * 256 + threadIdx.x; i < values;
       i += static_cast<int64_t>(gridDim.y) * 256) {
    const int64_t column = i % a.channels_out;
    const int64_t channel = column / a.own_out * a.own_in + i / a.channels_out;
    Sum<T> sum = Sum<T>(0);
    for (int pair = 0; pair < part.count; ++pair)
      if (in_rows[pair] >= 0)
        sum += widen(a.features[static_cast<int64_t>(in_rows[pair]) * a.channels_in + channel]) *
               widen(a.gradient[static_cast<int64_t>(out_rows[pair]) * a.channels_out + column]);
    a.partial_of(blockIdx.x)[i] = sum;
  }
}

// A tap's chunks, in order.
template <typename Out, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) sum_chunks_kernel(GradientArgs<T> a, Out* FL_RESTRICT out) {
  const int64_t values = static_cast<int64_t>(a.own_in) * a.channels_out;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  const int tap = static_cast<int>(blockIdx.y);
  const int64_t first = count_parts_before(a.starts, a.n_pairs, tap, a.chunk);
  int64_t end = first + count_parts(a.starts, a.n_pairs, tap, a.chunk);
  if (i >= values) return;
  if (end > a.chunks) end = a.chunks;
  Sum<T> sum = Sum<T>(0);
  for (int64_t chunk = first; chunk < end; ++chunk) sum += a.partial_of(chunk)[i];
  narrow(sum, out[tap * values + i]);
}

constexpr int kGradientThreads = 128;

template <typename T>
struct GradientStage {
  static constexpr int kStages = 3, kDepth = kMmaDepth<T>;
  static constexpr int kStride = kGradientTile + kColumnPad, kValues = kDepth * kStride;
  static constexpr std::size_t bytes = 2 * kStages * kValues * sizeof(T);
};

template <bool kAligned, typename T>
FL_D void load_gathered(T* to, const T* from, const int32_t* rows, int first, int end, int channel0,
                        int channels) {
  using Stage = GradientStage<T>;
  if constexpr (!kAligned) {
    load_plain<Stage::kDepth, kGradientThreads, Stage::kStride>(to, from, rows, first, end,
                                                                channel0, channels);
  } else {
    constexpr int kRuns = kGradientTile / kChunk<T>;
    FL_UNROLL
    for (int i = 0; i < Stage::kDepth * kRuns / kGradientThreads; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * kGradientThreads;
      const int d = item / kRuns, c = item % kRuns * kChunk<T>;
      const bool inside = first + d < end && channel0 + c < channels;
      const int32_t row = inside ? rows[first + d] : int32_t{-1};
      const int64_t at = row >= 0 ? static_cast<int64_t>(row) * channels + channel0 + c : 0;
      copy_chunk(to + d * Stage::kStride + c, from + at, row >= 0);
    }
  }
}

// Four warps, each 32 x 32 of the tile.
template <typename T, bool kAligned>
FL_KERNEL FL_LAUNCH_BOUNDS(kGradientThreads, 4) tensor_gradient_kernel(GradientArgs<T> a) {
  using Stage = GradientStage<T>;
  constexpr int kStages = Stage::kStages, kDepth = Stage::kDepth;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  T* const from = reinterpret_cast<T*>(&memory[0]);
  T* const to = from + kStages * Stage::kValues;
  int32_t* const in_rows = reinterpret_cast<int32_t*>(&memory[0] + Stage::bytes);
  int32_t* const out_rows = in_rows + a.chunk;
  const Part part = find_part(a.starts, a.n_pairs, a.n_taps, a.chunk, blockIdx.x);
  if (part.tap < 0) return;
  list_pairs<kGradientThreads>(a, part, in_rows, out_rows);

  const int row0 = static_cast<int>(blockIdx.y) * kGradientTile;
  const int column0 = static_cast<int>(blockIdx.z) * kGradientTile;
  const auto load = [&](int stage, int first) {
    load_gathered<kAligned>(from + stage * Stage::kValues, a.features, in_rows, first, part.count,
                            row0, a.channels_in);
    load_gathered<kAligned>(to + stage * Stage::kValues, a.gradient, out_rows, first, part.count,
                            column0, a.channels_out);
  };
  const int steps = (part.count + kDepth - 1) / kDepth;
  FL_UNROLL
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step, step * kDepth);
    close_copies();
  }
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int my_row = warp / 2 * 32, my_column = warp % 2 * 32;
  float sums[2][4][4] = {};
  int stage = 0, next = kStages - 1;
  for (int step = 0; step < steps; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    const int ahead = step + kStages - 1;
    if (ahead < steps) load(next, ahead * kDepth);
    close_copies();
    FL_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t x[2][4];
      FL_UNROLL
      for (int m = 0; m < 2; ++m)
        turned_fragment<Stage::kStride>(x[m], from + stage * Stage::kValues, my_row + m * 16, half);
      FL_UNROLL
      for (int n = 0; n < 2; ++n) {
        uint32_t g[4];
        columns_fragment<Stage::kStride>(g, to + stage * Stage::kValues, my_column + n * 16, half);
        FL_UNROLL
        for (int m = 0; m < 2; ++m) {
          multiply(T{}, sums[m][2 * n], x[m], g[0], g[1]);
          multiply(T{}, sums[m][2 * n + 1], x[m], g[2], g[3]);
        }
      }
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
    next = next + 1 == kStages ? 0 : next + 1;
  }
  float* const partial = a.partial_of(blockIdx.x);
  FL_UNROLL
  for (int m = 0; m < 2; ++m) FL_UNROLL
  for (int n = 0; n < 4; ++n) FL_UNROLL
  for (int k = 0; k < 4; ++k) {
    const int row = row0 + my_row + m * 16 + k / 2 * 8 + lane / 4;
    const int column = column0 + my_column + n * 8 + lane % 4 * 2 + k % 2;
    if (row < a.channels_in && column < a.channels_out)
      partial[static_cast<int64_t>(row) * a.channels_out + column] = sums[m][n][k];
  }
}

}  // namespace fl::sparse
