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

// At least as many tiles as there are, of output rows in all splits or of pairs.
template <typename T>
int64_t count_tiles(const GemmArgs<T>& a, int tile_rows) {
  return a.starts != nullptr ? most_parts(a.n_pairs, a.n_taps, tile_rows)
                             : (a.n_out + tile_rows - 1) / tile_rows * a.splits;
}

// What alignment lets the tensor-core kernels copy at once.
enum class Copies {
  values,       // one value
  half_chunks,  // 8 bytes of a row, as four channels of 16 bits are; 16 bytes of the weight
  chunks,       // 16 bytes
  taps,         // 16 bytes, and no step of 64 bytes of depth reaches into the next tap
};

// From sm_80 on; older cards take the plain kernel.
bool has_tensor_cores();

void launch_tensor(const GemmArgs<Half>& a, Copies copies, Stream stream);
void launch_tensor(const GemmArgs<BFloat16>& a, Copies copies, Stream stream);
void launch_tensor(const GemmArgs<float>& a, Copies copies, Stream stream);

constexpr int kMostTensorChannels = 8192;

template <typename T>
class GemmLauncher {
 public:
  GemmLauncher(const GemmArgs<T>& a, bool allow_tf32, Stream stream) : stream_(stream) {
    tensor_ = !std::is_same<T, double>::value && (allow_tf32 || !std::is_same<T, float>::value) &&
              a.channels_in <= kMostTensorChannels && has_tensor_cores();
    constexpr int kChunk = 16 / sizeof(T);
    if (a.channels_out % kChunk == 0 && is_aligned(a.features) && is_aligned(a.weight) &&
        is_aligned(a.epilogue))
      copies_ = a.channels_in % (4 * kChunk) == 0 ? Copies::taps
                : a.channels_in % kChunk == 0     ? Copies::chunks
                : a.channels_in * 2 % kChunk == 0 ? Copies::half_chunks
                                                  : Copies::values;
  }

  void launch(const GemmArgs<T>& a) const {
    if constexpr (!std::is_same<T, double>::value)
      if (tensor_) return launch_tensor(a, copies_, stream_);
    using Shape = PlainGemm<T>;
    const int column_tiles = (a.channels_out + Shape::kColumns - 1) / Shape::kColumns;
    FL_LAUNCH((plain_gemm_kernel<T>), count_tiles(a, Shape::kRows) * column_tiles, Shape::kThreads,
              Shape::shared_bytes(a), stream_, a, column_tiles);
  }

 private:
  Stream stream_;
  bool tensor_ = false;
  Copies copies_ = Copies::values;
};

}  // namespace fl::sparse
