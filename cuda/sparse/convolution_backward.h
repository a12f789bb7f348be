// SPDX-License-Identifier: Apache-2.0
//
// The parts of convolution on CUDA that its gradients are made of; each is compiled apart.
#pragma once

#include "sparse/convolution_backward_entry.h"

namespace fl::sparse {

// Of convolution.cu.
void convolve_on_gpu(const ConvolutionInput& in, const Tensor& out);

// Of convolution_gradient.cu. The output is of the features' type or of that of their sums.
void weight_gradient_on_gpu(const WeightGradientInput& in, const Tensor& out);

}  // namespace fl::sparse
