// SPDX-License-Identifier: Apache-2.0
//
// Tensor-core GEMM of float32 rounded to tf32.
#include "sparse/convolution_shapes.h"

namespace fl::sparse {

void launch_tensor(const GemmArgs<float>& a, Copies copies, Stream stream) {
  launch_shapes(a, copies, stream);
}

}  // namespace fl::sparse
