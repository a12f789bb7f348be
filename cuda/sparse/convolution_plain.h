// SPDX-License-Identifier: Apache-2.0
//
// The GEMM of convolution in plain multiply-adds, for float64, for float32 in full precision and
// for the emulator. Of a tile, taps and channels are one dimension: a step takes the next kDepth of
// (tap, channel), so that few channels do not leave a step half empty.
#pragma once

#include "sparse/convolution_gemm.h"

namespace fl::sparse {

template <typename T>
struct PlainGemm {
  static constexpr int kRows = 64, kColumns = 64, kDepth = 16, kThreads = 256;
  static constexpr int kPad = 4;
  using S = Sum<T>;

  static constexpr std::size_t operand_values = kDepth * (kRows + kPad + kColumns);
  static constexpr std::size_t sum_values = kRows * (kColumns + kPad);
  static constexpr std::size_t values = operand_values > sum_values ? operand_values : sum_values;
  static std::size_t shared_bytes(const GemmArgs<T>& a) {
    return values * sizeof(S) + listed_rows(a, kRows) * sizeof(int32_t);
  }
};

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) plain_gemm_kernel(GemmArgs<T> a, int column_tiles) {
  using Shape = PlainGemm<T>;
  using S = Sum<T>;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kDepth = Shape::kDepth;
  constexpr int kThreads = Shape::kThreads, kEach = 4;
  constexpr int kRowStride = kRows + Shape::kPad, kSumStride = kColumns + Shape::kPad;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  FL_SHARED(uint8_t, tap_list, kMostSplitTaps);
  S* const from = reinterpret_cast<S*>(&memory[0]);
  S* const weights = from + kDepth * kRowStride;
  int32_t* const rows = reinterpret_cast<int32_t*>(from + Shape::values);
  uint8_t* const taps = &tap_list[0];

  const int part = draw_part(a), column0 = part % column_tiles * kColumns;
  const Tile<T> tile = find_tile<kRows>(a, part / column_tiles);
  if (tile.taps == 0 && !tile.finishes) return report_partial_sums(a);
  int32_t* const places = rows + a.split_taps * kRows;
  if (tile.finishes) list_places<kRows, kThreads>(a, tile, places);
  const int n_taps = list_rows<kRows, kThreads>(a, tile, taps, rows);

  const int thread = static_cast<int>(threadIdx.x), total = n_taps * a.channels_in;
  const int my_row = thread / 16 * kEach, my_column = thread % 16 * kEach;
  S sums[kEach][kEach] = {};
  for (int step = 0; step < total; step += kDepth) {
    const int k = thread % kDepth, at = step + k;
    const int j = at / a.channels_in, channel = at - j * a.channels_in;
    for (int r = thread / kDepth; r < kRows; r += kThreads / kDepth) {
      const int32_t row = at < total ? rows[j * kRows + r] : int32_t{-1};
      from[k * kRowStride + r] =
          row >= 0 ? widen(a.features[static_cast<int64_t>(row) * a.channels_in + channel]) : S(0);
    }
    for (int item = thread; item < kDepth * kColumns; item += kThreads) {
      const int depth = step + item / kColumns, column = column0 + item % kColumns;
      S value = S(0);
      if (depth < total && column < a.channels_out) {
        const int i = depth / a.channels_in;
        const int64_t tap = tile.first_tap + taps[i];
        value =
            widen(a.weight[(tap * a.channels_in + (depth - i * a.channels_in)) * a.channels_out +
                           column]);
      }
      weights[item] = value;
    }
    __syncthreads();
    FL_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      S x[kEach], w[kEach];
      FL_UNROLL
      for (int i = 0; i < kEach; ++i) {
        x[i] = from[d * kRowStride + my_row + i];
        w[i] = weights[d * kColumns + my_column + i];
      }
      FL_UNROLL
      for (int i = 0; i < kEach; ++i) FL_UNROLL
      for (int j2 = 0; j2 < kEach; ++j2) sums[i][j2] += x[i] * w[j2];
    }
    __syncthreads();
  }
  FL_UNROLL
  for (int i = 0; i < kEach; ++i) FL_UNROLL
  for (int j = 0; j < kEach; ++j) from[(my_row + i) * kSumStride + my_column + j] = sums[i][j];
  __syncthreads();
  if (tile.finishes) await_partial_sums<kRows>(a, column_tiles);
  store_tile<1, kRows, kColumns, kThreads>(a, tile, column0, from, kSumStride, places);
  if (!tile.finishes) report_partial_sums(a);
}

// Groups of channels: a thread an output value. Also what serves a bare table.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) direct_kernel(GemmArgs<T> a, int own_in, int own_out) {
  const int64_t row = this_row();
  if (row >= a.n_out) return;
  for (int column = static_cast<int>(threadIdx.x); column < a.channels_out;
       column += static_cast<int>(blockDim.x)) {
    const int first = column / own_out * own_in;
    Sum<T> sum = Sum<T>(0);
    for (int64_t tap = 0; tap < a.n_taps; ++tap) {
      const int64_t from = a.table[tap * a.n_out + row];
      if (from < 0 || from >= a.n_in) continue;
      const T* x = a.features + from * a.channels_in + first;
      const T* w = a.weight + tap * own_in * a.channels_out + column;
      for (int k = 0; k < own_in; ++k)
        sum += widen(x[k]) * widen(w[static_cast<int64_t>(k) * a.channels_out]);
    }
    finish_row<1>(a.epilogue, row, column, &sum);
  }
}

// The second launch of the grouped form; the table holds pairs.
template <int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) sum_pairs_kernel(GemmArgs<T> a) {
  const int64_t row = this_row();
  if (row >= a.n_out) return;
  for (int column = static_cast<int>(threadIdx.x) * V; column < a.channels_out;
       column += static_cast<int>(blockDim.x) * V) {
    Sum<T> sums[V] = {};
    for (int64_t tap = 0; tap < a.n_taps; ++tap) {
      const int64_t pair = a.table[tap * a.n_out + row];
      if (pair >= 0 && pair < a.n_pairs)
        add_pack<V>(sums, a.partial + pair * a.channels_out + column);
    }
    finish_row<V>(a.epilogue, row, column, sums);
  }
}

}  // namespace fl::sparse
