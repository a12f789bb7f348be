// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on tensor cores. A warp owns 32 rows by half of the columns of a tile
// of the weight; pairs are the depth of the product. The rows of a share's pairs are listed in
// shared memory; their values are on their way while those of steps before are multiplied.
#pragma once

#include "sparse/convolution_gradient_gemm.h"
#include "sparse/convolution_mma.h"

namespace fl::sparse {

// Of a tile of the weight: the side that wastes fewest channels, and of those the longest.
inline int gradient_tile_side(int channels) {
  int best = 64;
  for (const int side : {96, 128})
    if ((channels + side - 1) / side * side <= (channels + best - 1) / best * best) best = side;
  return best;
}

// Sixteen warps of a multiprocessor hide best what they wait for, as far as registers go.
constexpr int resident_gradient_blocks(int rows) { return rows == 64 ? 4 : rows == 96 ? 3 : 2; }

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
  static constexpr int kThreads = kRows * 2;
  static constexpr int kStages = 3, kStageValues = Rows::kValues + Columns::kValues;
  static constexpr int kWarpRows = 32, kWarpColumns = kColumns / 2;

  static constexpr std::size_t bytes = kStages * kStageValues * sizeof(T);
  static std::size_t shared_bytes(const GradientArgs<T>& a) {
    return bytes + 2 * static_cast<std::size_t>(a.most_share_pairs()) * sizeof(int32_t);
  }
};

// One step of an operand.
template <typename Operand, int kThreads, bool kAligned, typename T>
FL_D void load_gathered(T* to, const GatheredRows<T>& from, int first, int channel0) {
  if constexpr (!kAligned) {
    load_plain<Operand::kDepth, Operand::kTile, kThreads, Operand::kStride>(to, from, first,
                                                                            channel0);
  } else {
    constexpr int kRuns = Operand::kTile / kChunk<T>, kItems = Operand::kDepth * kRuns;
    FL_UNROLL
    for (int i = 0; i < (kItems + kThreads - 1) / kThreads; ++i) {
      const int item = static_cast<int>(threadIdx.x) + i * kThreads;
      if (kItems % kThreads != 0 && item >= kItems) break;
      const int d = item / kRuns, c = item % kRuns * kChunk<T>;
      const int32_t row = channel0 + c < from.channels ? from.at(first + d) : int32_t{-1};
      const int64_t at = row >= 0 ? int64_t{row} * from.channels + channel0 + c : 0;
      copy_chunk(to + d * Operand::kStride + c, from.values + at, row >= 0);
    }
  }
}

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

// Lists the rows of the block's share.
template <int kThreads, typename T>
FL_D void list_share(const GradientArgs<T>& a, int64_t first, int64_t end, int32_t* in_rows,
                     int32_t* out_rows) {
  for (int64_t i = first + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
    in_rows[i - first] = a.in_rows[i];
    out_rows[i - first] = a.out_rows[i];
  }
  __syncthreads();
}

template <typename T, int kRows, int kColumns, bool kAligned>
FL_KERNEL FL_LAUNCH_BOUNDS(kRows * 2, resident_gradient_blocks(kRows))
    tensor_gradient_kernel(GradientArgs<T> a) {
  using Shape = TensorGradient<T, kRows, kColumns>;
  constexpr int kStages = Shape::kStages, kThreads = Shape::kThreads;
  constexpr int kDepth = Shape::Rows::kDepth;
  FL_DYNAMIC_SHARED(unsigned char, memory);
  T* const stages = reinterpret_cast<T*>(&memory[0]);
  const Share share(a);
  int32_t* const in_rows = reinterpret_cast<int32_t*>(&memory[0] + Shape::bytes);
  int32_t* const out_rows = in_rows + a.most_share_pairs();
  list_share<kThreads>(a, share.first, share.end, in_rows, out_rows);
  const int tile_row = static_cast<int>(blockIdx.y) * kRows;
  const int tile_column = static_cast<int>(blockIdx.z) * kColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / 2 * Shape::kWarpRows, column0 = warp % 2 * Shape::kWarpColumns;

  for_parts_of_share(a, share, [&](int tap, int64_t first_pair, int count) {
    const int64_t listed = first_pair - share.first;
    const auto features = features_at(a, in_rows + listed, count);
    const auto gradient = gradient_at(a, out_rows + listed, count);
    const auto load = [&](int stage, int first) {
      T* const at = stages + stage * Shape::kStageValues;
      load_gathered<typename Shape::Rows, kThreads, kAligned>(at, features, first, tile_row);
      load_gathered<typename Shape::Columns, kThreads, kAligned>(at + Shape::Rows::kValues,
                                                                 gradient, first, tile_column);
    };
    const int steps = (count + kDepth - 1) / kDepth;
    GradientSums<Shape> sums = {};
    FL_UNROLL
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load(step, step * kDepth);
      close_copies();
    }
    int stage = 0, next = kStages - 1;
    for (int step = 0; step < steps; ++step) {
      await_copies<kStages - 2>();
      __syncthreads();
      const int ahead = step + kStages - 1;
      if (ahead < steps) load(next, ahead * kDepth);
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
  FL_LAUNCH((tensor_gradient_kernel<T, kRows, kColumns, kAligned>), grid, kRows * 2,
            (TensorGradient<T, kRows, kColumns>::shared_bytes(a)), stream, a);
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
