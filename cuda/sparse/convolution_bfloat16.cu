// SPDX-License-Identifier: Apache-2.0
//
// Tensor-core GEMM of bfloat16.
#include "sparse/convolution_gradient_tensor.h"
#include "sparse/convolution_shapes.h"

namespace fl::sparse {

void launch_tensor(const GemmArgs<BFloat16>& a, Copies copies, Stream stream) {
  launch_shapes(a, copies, stream);
}

void launch_tensor_gradient(const GradientArgs<BFloat16>& a, Stream stream) {
  launch_gradient_shapes(a, stream);
}

}  // namespace fl::sparse
