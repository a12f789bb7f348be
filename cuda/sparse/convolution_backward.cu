// SPDX-License-Identifier: Apache-2.0
//
// The gradients of convolution on CUDA, and the turned weight that the features' gradient takes.
#include "sparse/convolution_backward.h"

#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"

namespace fl::sparse {
namespace {

constexpr int kTurnTile = 32, kTurnThreads = 256;

// A block transposes one tile of one matrix, so that reads and writes both go along rows.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kTurnThreads, 1)
    turn_kernel(WeightTurn turn, const T* FL_RESTRICT weight, T* FL_RESTRICT out, int row_tiles,
                int column_tiles) {
  FL_SHARED_2D(T, tile, kTurnTile, kTurnTile + 1);
  constexpr int kRows = kTurnThreads / kTurnTile;
  const int x = static_cast<int>(threadIdx.x) % kTurnTile;
  const int y = static_cast<int>(threadIdx.x) / kTurnTile;
  const int64_t block = blockIdx.x, m = block / (row_tiles * column_tiles);
  const int64_t row = block / column_tiles % row_tiles * kTurnTile;
  const int64_t column = block % column_tiles * kTurnTile;
  const T* from = weight + turn.source(m);
  for (int i = y; i < kTurnTile; i += kRows)
    if (row + i < turn.own_in && column + x < turn.own_out)
      tile[i][x] = from[(row + i) * turn.source_stride() + column + x];
  __syncthreads();
  T* to = out + turn.target(m);
  for (int i = y; i < kTurnTile; i += kRows)
    if (column + i < turn.own_out && row + x < turn.own_in)
      to[(column + i) * turn.target_stride() + row + x] = tile[x][i];
}

struct CudaBackward {
  static void forward(const ConvolutionInput& in, const Tensor& out) { convolve_on_gpu(in, out); }

  static void weight_gradient(const WeightGradientInput& in, const Tensor& out) {
    weight_gradient_on_gpu(in, out);
  }

  static void turn(const WeightTurn& turn, const Tensor& weight, const Tensor& out) {
    const DeviceGuard guard(weight.get_device_index());
    const Stream stream = current_stream(weight.get_device_index());
    const int64_t row_tiles = (turn.own_in + kTurnTile - 1) / kTurnTile;
    const int64_t column_tiles = (turn.own_out + kTurnTile - 1) / kTurnTile;
    dispatch_element(weight, [&](auto t) {
      using T = decltype(t);
      FL_LAUNCH((turn_kernel<T>), turn.matrices() * row_tiles * column_tiles, kTurnThreads, 0,
                stream, turn, input<T>(weight), output<T>(out), static_cast<int>(row_tiles),
                static_cast<int>(column_tiles));
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_conv_backward", TORCH_BOX(&sparse_conv_backward<CudaBackward>));
}

}  // namespace fl::sparse
