// SPDX-License-Identifier: Apache-2.0
//
// The shapes that the tensor-core GEMM is compiled in, and the choice among them.
#pragma once

#include "sparse/convolution_launch.h"
#include "sparse/convolution_tensor.h"

namespace fl::sparse {

template <int kRows, int kColumns, bool kAligned, typename T>
void launch_shape(const GemmArgs<T>& a, const GemmGrid& grid, Stream stream) {
  using Shape = TensorGemm<T, kRows, kColumns>;
  const int column_tiles = (a.channels_out + kColumns - 1) / kColumns;
  FL_LAUNCH((tensor_gemm_kernel<T, kRows, kColumns, kAligned>), grid.extent(a, kRows, column_tiles),
            Shape::kThreads, Shape::shared_bytes(a.split_taps), stream, a,
            Divider(static_cast<uint32_t>(a.channels_in)), column_tiles);
}

template <int kRows, typename T>
void launch_columns(const GemmArgs<T>& a, const GemmGrid& grid, Stream stream) {
  // Wide tiles gather each row less often; narrow ones waste fewer columns, and are more blocks.
  const int64_t tiles = (grid.rows + kRows - 1) / kRows * grid.slots;
  const int64_t wanted = 2 * device_sm_count();
  const auto fits = [&](int columns) {
    return tiles * ((a.channels_out + columns - 1) / columns) >= wanted;
  };
  if (a.channels_out <= 32)
    launch_shape<kRows, 32, true>(a, grid, stream);
  else if (a.channels_out <= 64)
    launch_shape<kRows, 64, true>(a, grid, stream);
  else if (a.channels_out <= 96)
    launch_shape<kRows, 96, true>(a, grid, stream);
  else if (fits(128))
    launch_shape<kRows, 128, true>(a, grid, stream);
  else
    launch_shape<kRows, 64, true>(a, grid, stream);
}

template <typename T>
void launch_shapes(const GemmArgs<T>& a, const GemmGrid& grid, bool aligned, Stream stream) {
  if (!aligned)
    launch_shape<64, 64, false>(a, grid, stream);
  else if (!grid.pairs && a.tile_rows == 128)
    launch_columns<128>(a, grid, stream);
  else
    launch_columns<64>(a, grid, stream);
}

}  // namespace fl::sparse
