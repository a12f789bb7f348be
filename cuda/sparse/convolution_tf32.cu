// SPDX-License-Identifier: Apache-2.0
//
// Tensor-core GEMM of float32 rounded to tf32.
#include "sparse/convolution_shapes.h"

namespace fl::sparse {

void launch_tensor(const GemmArgs<float>& a, const GemmGrid& grid, bool aligned, Stream stream) {
  launch_shapes(a, grid, aligned, stream);
}

}  // namespace fl::sparse
