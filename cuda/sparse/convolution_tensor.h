// SPDX-License-Identifier: Apache-2.0
//
// The GEMM of convolution on tensor cores. A warp owns 32 rows by half of the block's columns;
// four stages of operands lie in shared memory, three of them on their way while one is multiplied.
// Taps and channels are one dimension, as in the plain kernel: a step of 64 bytes of depth may take
// several taps of few channels, or part of one tap of many. Where a step always lies in one tap,
// addresses advance from step to step and are looked up anew only when the tap changes.
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
  static constexpr int kThreads = kRows * 2, kStages = 4;
  static constexpr int kWarpRows = 32, kWarpColumns = kColumns / 2;
  static constexpr int kColumnStride = kColumns + kColumnPad, kSumStride = kColumns + 8;
  static constexpr int kRowValues = kRows * kDepth, kColumnValues = kDepth * kColumnStride;
  static constexpr int kStageValues = kRowValues + kColumnValues;

  static constexpr std::size_t operand_bytes = kStages * kStageValues * sizeof(T);
  static constexpr std::size_t sum_bytes = kRows * kSumStride * sizeof(float);
  static constexpr std::size_t bytes = operand_bytes > sum_bytes ? operand_bytes : sum_bytes;
  static std::size_t shared_bytes(const GemmArgs<T>& a) {
    return bytes + listed_rows(a, kRows) * sizeof(int32_t);
  }
};

// Brings one step's operands after another to a stage.
template <typename Shape, Copies kCopies, typename T>
class StepLoader {
 public:
  FL_D StepLoader(const GemmArgs<T>& a, const Tile<T>& tile, const Divider& channels,
                  const uint8_t* taps, const int32_t* rows, int n_taps, int column0)
      : a_(a),
        tile_(tile),
        channels_(channels),
        taps_(taps),
        rows_(rows),
        column0_(column0),
        total_(n_taps * a.channels_in) {}

  FL_D void load_next(T* stage) {
    load_rows(stage);
    load_columns(stage + Shape::kRowValues);
    first_ += Shape::kDepth;
  }

 private:
  static constexpr bool kAligned = kCopies != Copies::values;
  static constexpr int kRowWidth = !kAligned                        ? 1
                                   : kCopies == Copies::half_chunks ? kChunk<T> / 2
                                                                    : kChunk<T>;

  FL_D const T* weight_at(int depth, int column) const {
    const int j = channels_.quotient(depth), channel = depth - j * a_.channels_in;
    const int64_t row = static_cast<int64_t>(tile_.first_tap + taps_[j]) * a_.channels_in + channel;
    return a_.weight + row * a_.channels_out + column;
  }

  FL_D void load_rows(T* to) const {
    constexpr int kRuns = Shape::kDepth / kRowWidth;
    const int run = static_cast<int>(threadIdx.x) % kRuns, depth = first_ + run * kRowWidth;
    const int j = channels_.quotient(depth), channel = depth - j * a_.channels_in;
    FL_UNROLL
    for (int i = 0; i < Shape::kRows * kRuns / Shape::kThreads; ++i) {
      const int r = static_cast<int>(threadIdx.x) / kRuns + i * (Shape::kThreads / kRuns);
      const int32_t row = depth < total_ ? rows_[j * Shape::kRows + r] : int32_t{-1};
      const int64_t at = row >= 0 ? static_cast<int64_t>(row) * a_.channels_in + channel : 0;
      T* const place =
          chunk_of_row(to, r, run * kRowWidth / kChunk<T>) + run * kRowWidth % kChunk<T>;
      if constexpr (kAligned)
        copy_bytes<kRowWidth * sizeof(T)>(place, a_.features + at, row >= 0);
      else
        *place = row >= 0 ? a_.features[at] : narrow<T>(0.0f);
    }
  }

  FL_D void load_columns(T* to) const {
    constexpr int kWidth = kAligned ? kChunk<T> : 1, kRuns = Shape::kColumns / kWidth;
    constexpr int kItems = Shape::kDepth * kRuns;
    FL_UNROLL
    for (int i = 0; i < (kItems + Shape::kThreads - 1) / Shape::kThreads; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
      if (kItems % Shape::kThreads != 0 && item >= kItems) break;
      const int depth = first_ + item / kRuns, c = item % kRuns * kWidth;
      const bool exists = depth < total_ && column0_ + c < a_.channels_out;
      const T* from = exists ? weight_at(depth, column0_ + c) : a_.weight;
      T* const at = to + item / kRuns * Shape::kColumnStride + c;
      if constexpr (kAligned)
        copy_chunk(at, from, exists);
      else
        *at = exists ? *from : narrow<T>(0.0f);
    }
  }

  const GemmArgs<T>& a_;
  const Tile<T>& tile_;
  const Divider& channels_;
  const uint8_t* taps_;
  const int32_t* rows_;
  int column0_, total_, first_ = 0;
};

// Where no step reaches into the next tap. Columns that the weight lacks are not written at all:
// whatever lies there reaches no other column, and theirs are not stored.
template <typename Shape, typename T>
class StepLoader<Shape, Copies::taps, T> {
 public:
  FL_D StepLoader(const GemmArgs<T>& a, const Tile<T>& tile, const Divider&, const uint8_t* taps,
                  const int32_t* rows, int, int column0)
      : a_(a), first_tap_(tile.first_tap), taps_(taps), rows_(rows + my_row()) {
    FL_UNROLL
    for (int i = 0; i < kColumnCopies; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
      const int column = column0 + item % kColumnRuns * kChunk<T>;
      const bool exists = item < kColumnItems && column < a.channels_out;
      columns_[i] = exists ? item / kColumnRuns * a.channels_out + column : -1;
    }
  }

  FL_D void load_next(T* stage) {
    if (steps_left_ == 0) begin_tap();
    T* const rows = chunk_of_row(stage, my_row(), my_run());
    FL_UNROLL
    for (int i = 0; i < kRowCopies; ++i) {
      copy_chunk(rows + i * kRowStep * Shape::kDepth, features_[i], exists_[i]);
      features_[i] += Shape::kDepth;
    }
    T* const columns = stage + Shape::kRowValues;
    FL_UNROLL
    for (int i = 0; i < kColumnCopies; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
      if (columns_[i] >= 0)
        copy_chunk(
            columns + item / kColumnRuns * Shape::kColumnStride + item % kColumnRuns * kChunk<T>,
            weight_ + columns_[i]);
    }
    weight_ += static_cast<int64_t>(Shape::kDepth) * a_.channels_out;
    --steps_left_;
  }

 private:
  static constexpr int kRowRuns = Shape::kDepth / kChunk<T>;
  static constexpr int kRowStep = Shape::kThreads / kRowRuns;
  static constexpr int kRowCopies = Shape::kRows / kRowStep;
  static constexpr int kColumnRuns = Shape::kColumns / kChunk<T>;
  static constexpr int kColumnItems = Shape::kDepth * kColumnRuns;
  static constexpr int kColumnCopies = (kColumnItems + Shape::kThreads - 1) / Shape::kThreads;
  static_assert(kRowStep % 8 == 0, "rows of a thread trade their chunks' places alike");

  FL_D static int my_row() { return static_cast<int>(threadIdx.x) / kRowRuns; }
  FL_D static int my_run() { return static_cast<int>(threadIdx.x) % kRowRuns; }

  FL_D void begin_tap() {
    FL_UNROLL
    for (int i = 0; i < kRowCopies; ++i) {
      const int32_t row = rows_[i * kRowStep];
      exists_[i] = row >= 0;
      const int64_t at = exists_[i] ? static_cast<int64_t>(row) * a_.channels_in : 0;
      features_[i] = a_.features + at + my_run() * kChunk<T>;
    }
    const int64_t depth = static_cast<int64_t>(first_tap_ + *taps_) * a_.channels_in;
    weight_ = a_.weight + depth * a_.channels_out;
    steps_left_ = a_.channels_in / Shape::kDepth;
    rows_ += Shape::kRows;
    ++taps_;
  }

  const GemmArgs<T>& a_;
  int first_tap_;
  const uint8_t* taps_;  // of the next tap, as are the rows
  const int32_t* rows_;
  int steps_left_ = 0;
  const T* features_[kRowCopies] = {};
  bool exists_[kRowCopies] = {};
  const T* weight_ = nullptr;
  int columns_[kColumnCopies];  // where the thread's chunks lie in a step's weights; -1: nowhere
};

template <typename Shape>
using WarpSums = float[Shape::kWarpRows / 16][Shape::kWarpColumns / 8][4];

template <typename Shape, typename T>
FL_D void multiply_stage(const T* stage, int row0, int column0, WarpSums<Shape>& sums) {
  constexpr int kGroups = Shape::kWarpRows / 16;
  const T* const columns = stage + Shape::kRowValues;
  FL_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t x[kGroups][4];
    FL_UNROLL
    for (int m = 0; m < kGroups; ++m)
      rows_fragment(x[m], const_cast<T*>(stage), row0 + m * 16, half);
    FL_UNROLL
    for (int n = 0; n < Shape::kWarpColumns / 16; ++n) {
      uint32_t w[4];
      columns_fragment<Shape::kColumnStride>(w, columns, column0 + n * 16, half);
      FL_UNROLL
      for (int m = 0; m < kGroups; ++m) {
        multiply(T{}, sums[m][2 * n], x[m], w[0], w[1]);
        multiply(T{}, sums[m][2 * n + 1], x[m], w[2], w[3]);
      }
    }
  }
}

template <typename Shape>
FL_D void store_warp_sums(float* tile_sums, int row0, int column0, const WarpSums<Shape>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  FL_UNROLL
  for (int m = 0; m < Shape::kWarpRows / 16; ++m) FL_UNROLL
  for (int n = 0; n < Shape::kWarpColumns / 8; ++n) FL_UNROLL
  for (int upper = 0; upper < 2; ++upper) {
    float* const at = tile_sums + (row0 + m * 16 + upper * 8 + lane / 4) * Shape::kSumStride +
                      column0 + n * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(at) = make_float2(sums[m][n][2 * upper], sums[m][n][2 * upper + 1]);
  }
}

template <typename T, int kRows, int kColumns, Copies kCopies>
FL_KERNEL FL_LAUNCH_BOUNDS(kRows * 2, kCopies == Copies::values ? 3 : 256 / kRows)
    tensor_gemm_kernel(GemmArgs<T> a, Divider channels, int column_tiles) {
  using Shape = TensorGemm<T, kRows, kColumns>;
  constexpr int kStages = Shape::kStages;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  FL_SHARED(uint8_t, tap_list, kMostSplitTaps);
  T* const stages = reinterpret_cast<T*>(&memory[0]);
  int32_t* const rows = reinterpret_cast<int32_t*>(&memory[0] + Shape::bytes);
  int32_t* const places = rows + a.split_taps * kRows;
  uint8_t* const taps = &tap_list[0];

  const int part = draw_part(a), column0 = part % column_tiles * kColumns;
  const Tile<T> tile = find_tile<kRows>(a, part / column_tiles);
  if (tile.taps == 0 && !tile.finishes) return report_partial_sums(a);
  const int n_taps = list_rows<kRows, Shape::kThreads>(a, tile, taps, rows);
  const int steps = (n_taps * a.channels_in + Shape::kDepth - 1) / Shape::kDepth;
  StepLoader<Shape, kCopies, T> loader(a, tile, channels, taps, rows, n_taps, column0);

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / 2 * Shape::kWarpRows, my_column0 = warp % 2 * Shape::kWarpColumns;
  WarpSums<Shape> sums = {};
  FL_UNROLL
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) loader.load_next(stages + step * Shape::kStageValues);
    close_copies();
  }
  // While operands are on their way. The barriers of the steps come before anyone reads the places.
  if (tile.finishes) list_places<kRows, Shape::kThreads>(a, tile, places);
  int stage = 0, next = (kStages - 1) * Shape::kStageValues;
  const auto advance = [](int at) {
    return at == (kStages - 1) * Shape::kStageValues ? 0 : at + Shape::kStageValues;
  };
  for (int step = 0; step < steps; ++step) {
    await_copies<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) loader.load_next(stages + next);
    close_copies();
    multiply_stage<Shape>(stages + stage, row0, my_column0, sums);
    stage = advance(stage);
    next = advance(next);
  }
  await_copies<0>();
  __syncthreads();

  float* const tile_sums = reinterpret_cast<float*>(&memory[0]);
  store_warp_sums<Shape>(tile_sums, row0, my_column0, sums);
  __syncthreads();
  if (tile.finishes) await_partial_sums<kRows>(a, column_tiles);
  store_tile<kCopies == Copies::values ? 1 : kChunk<T>, kRows, kColumns, Shape::kThreads>(
      a, tile, column0, tile_sums, Shape::kSumStride, places);
  if (!tile.finishes) report_partial_sums(a);
}

}  // namespace fl::sparse
