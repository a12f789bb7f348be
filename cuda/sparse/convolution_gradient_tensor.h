// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on tensor cores. Four warps share a tile of the weight; pairs are the
// depth of the product. Rows of pairs are looked up a step before their values are asked for, and
// values are on their way while those of steps before are multiplied.
#pragma once

#include "sparse/convolution_gradient_gemm.h"
#include "sparse/convolution_mma.h"

namespace fl::sparse {

constexpr int kGradientThreads = 128;

// Of a tile of the weight: the side that wastes fewest channels, and of those the longest.
inline int gradient_tile_side(int channels) {
  int best = 64;
  for (const int side : {96, 128})
    if ((channels + side - 1) / side * side <= (channels + best - 1) / best * best) best = side;
  return best;
}

// On a multiprocessor, as its registers hold beside the tile's sums.
constexpr int resident_gradient_blocks(int rows, int columns) {
  return rows * columns > 12288 ? 2 : rows * columns > 4096 ? 3 : 4;
}

// How a launch cuts up the weight.
struct GradientTiling {
  bool aligned;  // rows in whole chunks
  int rows, columns;

  template <typename T>
  explicit GradientTiling(const GradientArgs<T>& a)
      : aligned(a.channels_in % kChunk<T> == 0 && a.channels_out % kChunk<T> == 0 &&
                is_aligned(a.features) && is_aligned(a.gradient)),
        rows(aligned ? gradient_tile_side(a.channels_in) : 64),
        columns(aligned ? gradient_tile_side(a.channels_out) : 64) {}

  template <typename T>
  dim3 grid(const GradientArgs<T>& a) const {
    return dim3(Extent(a.shares).value.x, static_cast<unsigned>((a.channels_in + rows - 1) / rows),
                static_cast<unsigned>((a.channels_out + columns - 1) / columns));
  }
};

template <typename T, int kTile_>
struct GradientOperand {
  static constexpr int kTile = kTile_, kDepth = kMmaDepth<T>, kStride = kTile + kColumnPad;
  static constexpr int kValues = kDepth * kStride;
};

template <typename T, int kRows, int kColumns>
struct TensorGradient {
  using Rows = GradientOperand<T, kRows>;
  using Columns = GradientOperand<T, kColumns>;
  static constexpr int kStages = 4, kStageValues = Rows::kValues + Columns::kValues;
  static constexpr int kWarpRows = kRows / 2, kWarpColumns = kColumns / 2;
  static constexpr std::size_t bytes = kStages * kStageValues * sizeof(T);
};

// Brings one step after another of an operand's part to a stage.
template <typename Operand, bool kAligned, typename T>
class PairLoader {
 public:
  FL_D PairLoader(const GatheredRows<T>& from, int channel0) : from_(from), channel0_(channel0) {
    look_up();
  }

  FL_D void load_next(T* stage) {
    if constexpr (kAligned) {
      FL_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        const int64_t at = rows_[i] >= 0 ? int64_t{rows_[i]} * from_.channels + channel(i) : 0;
        copy_chunk(stage + depth(i) * Operand::kStride + channel(i) - channel0_, from_.values + at,
                   rows_[i] >= 0);
      }
    } else {
      load_plain<Operand::kDepth, Operand::kTile, kGradientThreads, Operand::kStride>(
          stage, from_, first_, channel0_);
    }
    first_ += Operand::kDepth;
    look_up();
  }

 private:
  static constexpr int kRuns = Operand::kTile / kChunk<T>;
  static constexpr int kCopies = kAligned ? Operand::kDepth * kRuns / kGradientThreads : 1;
  static_assert(Operand::kDepth * kRuns % kGradientThreads == 0);

  FL_D static int item(int i) { return static_cast<int>(threadIdx.x) + i * kGradientThreads; }
  FL_D static int depth(int i) { return item(i) / kRuns; }
  FL_D int channel(int i) const { return channel0_ + item(i) % kRuns * kChunk<T>; }

  FL_D void look_up() {
    if constexpr (kAligned) {
      FL_UNROLL
      for (int i = 0; i < kCopies; ++i)
        rows_[i] = channel(i) < from_.channels ? from_.at(first_ + depth(i)) : -1;
    }
  }

  GatheredRows<T> from_;
  int channel0_, first_ = 0;
  int32_t rows_[kCopies] = {};
};

template <typename Shape>
using GradientSums = float[Shape::kWarpRows / 16][Shape::kWarpColumns / 8][4];

template <typename Shape, typename T>
FL_D void multiply_pairs(const T* stage, int row0, int column0, GradientSums<Shape>& sums) {
  constexpr int kGroups = Shape::kWarpRows / 16;
  FL_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t x[kGroups][4];
    FL_UNROLL
    for (int m = 0; m < kGroups; ++m)
      turned_fragment<Shape::Rows::kStride>(x[m], stage, row0 + m * 16, half);
    FL_UNROLL
    for (int n = 0; n < Shape::kWarpColumns / 16; ++n) {
      uint32_t g[4];
      columns_fragment<Shape::Columns::kStride>(g, stage + Shape::Rows::kValues, column0 + n * 16,
                                                half);
      FL_UNROLL
      for (int m = 0; m < kGroups; ++m) {
        multiply(T{}, sums[m][2 * n], x[m], g[0], g[1]);
        multiply(T{}, sums[m][2 * n + 1], x[m], g[2], g[3]);
      }
    }
  }
}

template <typename Shape, typename T>
FL_D void store_gradient(const GradientArgs<T>& a, float* partial, int row0, int column0,
                         const GradientSums<Shape>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  FL_UNROLL
  for (int m = 0; m < Shape::kWarpRows / 16; ++m) FL_UNROLL
  for (int n = 0; n < Shape::kWarpColumns / 8; ++n) FL_UNROLL
  for (int k = 0; k < 4; ++k) {
    const int row = row0 + m * 16 + k / 2 * 8 + lane / 4;
    const int column = column0 + n * 8 + lane % 4 * 2 + k % 2;
    if (row < a.channels_in && column < a.channels_out)
      partial[static_cast<int64_t>(row) * a.channels_out + column] = sums[m][n][k];
  }
}

template <typename T, int kRows, int kColumns, bool kAligned>
FL_KERNEL FL_LAUNCH_BOUNDS(kGradientThreads, (resident_gradient_blocks(kRows, kColumns)))
    tensor_gradient_kernel(GradientArgs<T> a) {
  using Shape = TensorGradient<T, kRows, kColumns>;
  constexpr int kStages = Shape::kStages, kDepth = Shape::Rows::kDepth;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  T* const stages = reinterpret_cast<T*>(&memory[0]);
  const int tile_row = static_cast<int>(blockIdx.y) * kRows;
  const int tile_column = static_cast<int>(blockIdx.z) * kColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / 2 * Shape::kWarpRows, column0 = warp % 2 * Shape::kWarpColumns;

  for_parts_of_share(a, [&](int tap, int64_t first_pair, int count) {
    PairLoader<typename Shape::Rows, kAligned, T> features(features_at(a, first_pair, count),
                                                           tile_row);
    PairLoader<typename Shape::Columns, kAligned, T> gradient(gradient_at(a, first_pair, count),
                                                              tile_column);
    const auto load_next = [&](int stage) {
      T* const at = stages + stage * Shape::kStageValues;
      features.load_next(at);
      gradient.load_next(at + Shape::Rows::kValues);
    };
    const int steps = (count + kDepth - 1) / kDepth;
    GradientSums<Shape> sums = {};
    FL_UNROLL
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load_next(step);
      close_copies();
    }
    int stage = 0, next = kStages - 1;
    for (int step = 0; step < steps; ++step) {
      await_copies<kStages - 2>();
      __syncthreads();
      if (step + kStages - 1 < steps) load_next(next);
      close_copies();
      multiply_pairs<Shape>(stages + stage * Shape::kStageValues, row0, column0, sums);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      next = next + 1 == kStages ? 0 : next + 1;
    }
    store_gradient<Shape>(a, a.partial_of(blockIdx.x, tap), tile_row + row0, tile_column + column0,
                          sums);
    __syncthreads();
  });
}

template <int kRows, int kColumns, bool kAligned, typename T>
void launch_gradient_shape(const GradientArgs<T>& a, dim3 grid, Stream stream) {
  FL_LAUNCH((tensor_gradient_kernel<T, kRows, kColumns, kAligned>), grid, kGradientThreads,
            (TensorGradient<T, kRows, kColumns>::bytes), stream, a);
}

template <int kRows, typename T>
void launch_gradient_columns(const GradientArgs<T>& a, int columns, dim3 grid, Stream stream) {
  if (columns == 64)
    launch_gradient_shape<kRows, 64, true>(a, grid, stream);
  else if (columns == 96)
    launch_gradient_shape<kRows, 96, true>(a, grid, stream);
  else
    launch_gradient_shape<kRows, 128, true>(a, grid, stream);
}

template <typename T>
void launch_gradient_shapes(const GradientArgs<T>& a, Stream stream) {
  const GradientTiling tiling(a);
  const dim3 grid = tiling.grid(a);
  if (!tiling.aligned)
    launch_gradient_shape<64, 64, false>(a, grid, stream);
  else if (tiling.rows == 64)
    launch_gradient_columns<64>(a, tiling.columns, grid, stream);
  else if (tiling.rows == 96)
    launch_gradient_columns<96>(a, tiling.columns, grid, stream);
  else
    launch_gradient_columns<128>(a, tiling.columns, grid, stream);
}

// Compiled beside the GEMM of the dtype: convolution_{half,bfloat16,tf32}.cu.
void launch_tensor_gradient(const GradientArgs<Half>& a, Stream stream);
void launch_tensor_gradient(const GradientArgs<BFloat16>& a, Stream stream);
void launch_tensor_gradient(const GradientArgs<float>& a, Stream stream);

}  // namespace fl::sparse
