// SPDX-License-Identifier: Apache-2.0
//
// Launches the GEMM of convolution in the shape that suits its sizes. Kernels of each dtype are
// compiled in a source of their own: convolution_{half,bfloat16,tf32}.cu.
#pragma once

#include "core/portable.h"
#include "sparse/convolution_plain.h"

namespace fl::sparse {

template <typename T>
bool is_aligned(const Epilogue<T>& e) {
  return is_aligned(e.bias) && is_aligned(e.residual) && is_aligned(e.out);
}

struct GemmGrid {
  int64_t rows;  // whose tiles the grid covers, or of pairs
  bool pairs;
  int slots;  // splits side by side

  // Blocks take 31 bits, column tiles fastest: their rows are then gathered while still in cache.
  template <typename T>
  dim3 extent(const GemmArgs<T>& a, int tile_rows, int column_tiles) const {
    const int64_t tiles =
        pairs ? most_parts(rows, a.n_taps, tile_rows) : (rows + tile_rows - 1) / tile_rows;
    return dim3(Extent(tiles * column_tiles).value.x, 1, static_cast<unsigned>(slots));
  }
};

// From sm_80 on; older cards take the plain kernel.
bool has_tensor_cores();

void launch_tensor(const GemmArgs<Half>& a, const GemmGrid& grid, bool aligned, Stream stream);
void launch_tensor(const GemmArgs<BFloat16>& a, const GemmGrid& grid, bool aligned, Stream stream);
void launch_tensor(const GemmArgs<float>& a, const GemmGrid& grid, bool aligned, Stream stream);

constexpr int kMostTensorChannels = 8192;

template <typename T>
class GemmLauncher {
 public:
  GemmLauncher(const GemmArgs<T>& a, bool allow_tf32, Stream stream) : stream_(stream) {
    constexpr int kWidth = 16 / sizeof(T);
    tensor_ = !std::is_same<T, double>::value && (allow_tf32 || !std::is_same<T, float>::value) &&
              a.channels_in <= kMostTensorChannels && has_tensor_cores();
    aligned_ = a.channels_in % kWidth == 0 && a.channels_out % kWidth == 0 &&
               is_aligned(a.features) && is_aligned(a.weight) && is_aligned(a.epilogue);
  }

  void launch(const GemmArgs<T>& a, int64_t rows, int slots) const { run(a, {rows, false, slots}); }
  void launch_pairs(const GemmArgs<T>& a, int64_t pairs) const { run(a, {pairs, true, 1}); }

 private:
  void run(const GemmArgs<T>& a, const GemmGrid& grid) const {
    if constexpr (!std::is_same<T, double>::value)
      if (tensor_) return launch_tensor(a, grid, aligned_, stream_);
    using Shape = PlainGemm<T>;
    const int column_tiles = (a.channels_out + Shape::kColumns - 1) / Shape::kColumns;
    FL_LAUNCH((plain_gemm_kernel<T>), grid.extent(a, Shape::kRows, column_tiles), Shape::kThreads,
              Shape::shared_bytes(a.split_taps), stream_, a, column_tiles);
  }

  Stream stream_;
  bool tensor_ = false, aligned_ = false;
};

}  // namespace fl::sparse
