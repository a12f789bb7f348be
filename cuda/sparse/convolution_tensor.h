// SPDX-License-Identifier: Apache-2.0
//
// The GEMM of convolution on tensor cores. A warp owns 32 rows by half of the block's columns;
// three stages of operands lie in shared memory, two of them on their way while one is multiplied.
// Taps and channels are one dimension, as in the plain kernel: a step of 64 bytes of depth may take
// several taps of few channels, or part of one tap of many.
#pragma once

#include "sparse/convolution_launch.h"
#include "sparse/convolution_mma.h"

namespace fl::sparse {

// Divides numbers below 32 divisors, exact for divisors up to kMostTensorChannels.
struct Divider {
  uint32_t divisor, magic;

  explicit Divider(uint32_t by)
      : divisor(by),
        magic(by == 1 ? 0u : static_cast<uint32_t>(((uint64_t{1} << 32) + by - 1) / by)) {}
  FL_D int quotient(int x) const {
    return divisor == 1 ? x : static_cast<int>(__umulhi(static_cast<uint32_t>(x), magic));
  }
};

template <typename T, int kRows_, int kColumns_>
struct TensorGemm {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kDepth = kMmaDepth<T>;
  static constexpr int kThreads = kRows * 2, kStages = 3;
  static constexpr int kColumnStride = kColumns + kColumnPad, kSumStride = kColumns + 8;
  static constexpr int kRowValues = kRows * kDepth, kColumnValues = kDepth * kColumnStride;
  static constexpr int kStageValues = kRowValues + kColumnValues;

  static constexpr std::size_t operand_bytes = kStages * kStageValues * sizeof(T);
  static constexpr std::size_t sum_bytes = kRows * kSumStride * sizeof(float);
  static constexpr std::size_t bytes = operand_bytes > sum_bytes ? operand_bytes : sum_bytes;
  static std::size_t shared_bytes(int split_taps) {
    return bytes + static_cast<std::size_t>(split_taps) * kRows * sizeof(int32_t);
  }
};

// Brings one step's operands to a stage. Where rows are not whole chunks, a value at a time.
template <typename Shape, bool kAligned, typename T>
struct StepLoader {
  const GemmArgs<T>& a;
  const Tile<T>& tile;
  const Divider& channels;
  const uint8_t* taps;
  const int32_t* rows;
  int column0, total;

  FL_D const T* weight_at(int depth, int column) const {
    const int j = channels.quotient(depth), channel = depth - j * a.channels_in;
    const int64_t row = static_cast<int64_t>(tile.first_tap + taps[j]) * a.channels_in + channel;
    return a.weight + row * a.channels_out + column;
  }

  FL_D void load(T* stage, int first) const {
    load_rows(stage, first);
    load_columns(stage + Shape::kRowValues, first);
  }

  FL_D void load_rows(T* to, int first) const {
    constexpr int kWidth = kAligned ? kChunk<T> : 1, kRuns = Shape::kDepth / kWidth;
    const int run = static_cast<int>(threadIdx.x) % kRuns, depth = first + run * kWidth;
    const int j = channels.quotient(depth), channel = depth - j * a.channels_in;
    FL_UNROLL
    for (int i = 0; i < Shape::kRows * kRuns / Shape::kThreads; ++i) {
      const int r = static_cast<int>(threadIdx.x) / kRuns + i * (Shape::kThreads / kRuns);
      const int32_t row = depth < total ? rows[j * Shape::kRows + r] : int32_t{-1};
      const int64_t at = row >= 0 ? static_cast<int64_t>(row) * a.channels_in + channel : 0;
      if constexpr (kAligned)
        copy_chunk(chunk_of_row(to, r, run), a.features + at, row >= 0);
      else
        chunk_of_row(to, r, run / kChunk<T>)[run % kChunk<T>] =
            row >= 0 ? a.features[at] : narrow<T>(0.0f);
    }
  }

  FL_D void load_columns(T* to, int first) const {
    constexpr int kWidth = kAligned ? kChunk<T> : 1, kRuns = Shape::kColumns / kWidth;
    constexpr int kItems = Shape::kDepth * kRuns;
    FL_UNROLL
    for (int i = 0; i < (kItems + Shape::kThreads - 1) / Shape::kThreads; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
      if (kItems % Shape::kThreads != 0 && item >= kItems) break;
      const int depth = first + item / kRuns, c = item % kRuns * kWidth;
      const bool exists = depth < total && column0 + c < a.channels_out;
      const T* from = exists ? weight_at(depth, column0 + c) : a.weight;
      T* const at = to + item / kRuns * Shape::kColumnStride + c;
      if constexpr (kAligned)
        copy_chunk(at, from, exists);
      else
        *at = exists ? *from : narrow<T>(0.0f);
    }
  }
};

template <typename Shape, typename T>
FL_D void multiply_stage(const T* stage, int row0, int column0,
                         float (&sums)[2][Shape::kColumns / 16][4]) {
  const T* const columns = stage + Shape::kRowValues;
  FL_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t x[2][4];
    FL_UNROLL
    for (int m = 0; m < 2; ++m) rows_fragment(x[m], const_cast<T*>(stage), row0 + m * 16, half);
    FL_UNROLL
    for (int n = 0; n < Shape::kColumns / 32; ++n) {
      uint32_t w[4];
      columns_fragment<Shape::kColumnStride>(w, columns, column0 + n * 16, half);
      FL_UNROLL
      for (int m = 0; m < 2; ++m) {
        multiply(T{}, sums[m][2 * n], x[m], w[0], w[1]);
        multiply(T{}, sums[m][2 * n + 1], x[m], w[2], w[3]);
      }
    }
  }
}

template <typename T, int kRows, int kColumns, bool kAligned>
FL_KERNEL FL_LAUNCH_BOUNDS(kRows * 2, kAligned ? 256 / kRows : 3)
    tensor_gemm_kernel(GemmArgs<T> a, Divider channels, int column_tiles) {
  using Shape = TensorGemm<T, kRows, kColumns>;
  constexpr int kStages = Shape::kStages;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  FL_SHARED(uint8_t, tap_list, 32);
  T* const stages = reinterpret_cast<T*>(&memory[0]);
  int32_t* const rows = reinterpret_cast<int32_t*>(&memory[0] + Shape::bytes);
  uint8_t* const taps = &tap_list[0];

  const int column0 = static_cast<int>(blockIdx.x) % column_tiles * kColumns;
  const Tile<T> tile = find_tile<kRows>(a, blockIdx.x / column_tiles);
  if (tile.taps == 0 && !a.finishes) return;
  const int n_taps = list_rows<kRows, Shape::kThreads>(a, tile, taps, rows);
  const int total = n_taps * a.channels_in, steps = (total + Shape::kDepth - 1) / Shape::kDepth;
  const StepLoader<Shape, kAligned, T> loader{a, tile, channels, taps, rows, column0, total};

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row0 = warp / 2 * 32, my_column0 = warp % 2 * (kColumns / 2);
  float sums[2][kColumns / 16][4] = {};
  FL_UNROLL
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) loader.load(stages + step * Shape::kStageValues, step * Shape::kDepth);
    close_copies();
  }
  int stage = 0, next = kStages - 1;
  for (int step = 0; step < steps; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    const int ahead = step + kStages - 1;
    if (ahead < steps) loader.load(stages + next * Shape::kStageValues, ahead * Shape::kDepth);
    close_copies();
    multiply_stage<Shape>(stages + stage * Shape::kStageValues, row0, my_column0, sums);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    next = next + 1 == kStages ? 0 : next + 1;
  }
  await_copies<0>();
  __syncthreads();

  float* const tile_sums = reinterpret_cast<float*>(&memory[0]);
  FL_UNROLL
  for (int m = 0; m < 2; ++m) FL_UNROLL
  for (int n = 0; n < kColumns / 16; ++n) FL_UNROLL
  for (int upper = 0; upper < 2; ++upper) {
    float* const at = tile_sums + (row0 + m * 16 + upper * 8 + lane / 4) * Shape::kSumStride +
                      my_column0 + n * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(at) = make_float2(sums[m][n][2 * upper], sums[m][n][2 * upper + 1]);
  }
  __syncthreads();
  store_tile<kAligned ? kChunk<T> : 1, kRows, kColumns, Shape::kThreads>(
      a, tile, column0, tile_sums, Shape::kSumStride);
}

}  // namespace fl::sparse
