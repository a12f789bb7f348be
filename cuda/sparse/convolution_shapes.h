// SPDX-License-Identifier: Apache-2.0
//
// The shapes that the tensor-core GEMM is compiled in, and the choice among them.
#pragma once

#include "sparse/convolution_launch.h"
#include "sparse/convolution_tensor.h"

namespace fl::sparse {

template <int kRows, int kColumns, Copies kCopies, typename T>
void launch_shape(const GemmArgs<T>& a, Stream stream) {
  using Shape = TensorGemm<T, kRows, kColumns>;
  const int column_tiles = (a.channels_out + kColumns - 1) / kColumns;
  FL_LAUNCH((tensor_gemm_kernel<T, kRows, kColumns, kCopies>), count_tiles(a, kRows) * column_tiles,
            Shape::kThreads, Shape::shared_bytes(a), stream, a,
            Divider(static_cast<uint32_t>(a.channels_in)), column_tiles);
}

template <int kRows, Copies kCopies, typename T>
void launch_columns(const GemmArgs<T>& a, Stream stream) {
  // Wide tiles gather each row less often; narrow ones waste fewer columns, and are more blocks.
  const int64_t tiles = count_tiles(a, kRows), wanted = 2 * device_sm_count();
  const auto fits = [&](int columns) {
    return tiles * ((a.channels_out + columns - 1) / columns) >= wanted;
  };
  if (a.channels_out <= 32)
    launch_shape<kRows, 32, kCopies>(a, stream);
  else if (a.channels_out <= 64)
    launch_shape<kRows, 64, kCopies>(a, stream);
  else if (a.channels_out <= 96)
    launch_shape<kRows, 96, kCopies>(a, stream);
  else if (fits(128))
    launch_shape<kRows, 128, kCopies>(a, stream);
  else
    launch_shape<kRows, 64, kCopies>(a, stream);
}

template <typename T>
void launch_shapes(const GemmArgs<T>& a, Copies copies, Stream stream) {
  if (copies == Copies::values)
    launch_shape<64, 64, Copies::values>(a, stream);
  else if (copies == Copies::half_chunks && a.channels_out <= 32)
    launch_shape<64, 32, Copies::half_chunks>(a, stream);
  else if (copies == Copies::half_chunks)
    launch_shape<64, 64, Copies::half_chunks>(a, stream);
  else if (copies == Copies::chunks)
    launch_columns<64, Copies::chunks>(a, stream);
  else if (a.starts == nullptr && a.tile_rows == 128)
    launch_columns<128, Copies::taps>(a, stream);
  else
    launch_columns<64, Copies::taps>(a, stream);
}

}  // namespace fl::sparse
