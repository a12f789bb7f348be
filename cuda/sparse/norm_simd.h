// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels of norm_simd.cpp take. `scratch` is of kNormScratch rows of padded
// channels.
#pragma once

#include "core/isa.h"
#include "sparse/convolution_simd.h"
#include "sparse/norm.h"

namespace fl::sparse {

constexpr int64_t kNormScratch = 2;

// Values of every channel, each list padded.
template <typename S>
struct ChannelLists {
  const S *mean, *scale, *shift;
  const S *offset, *slope;  // of the gradient
};

// What a part of the rows comes to: means and squared deviations, or sums of gradients and of their
// products with x - mean.
template <typename S>
struct PartSums {
  S *first, *second;  // [channels]
};

}  // namespace fl::sparse

namespace fl {
FL_ISA_DECLARE(template <typename T> void reduce_moments(const sparse::StatisticsArgs<T>& args,
                                                         int64_t begin, int64_t end,
                                                         sparse::PartSums<sparse::Sum<T>> part,
                                                         sparse::Sum<T>* scratch))
FL_ISA_DECLARE(template <typename T>
               void normalise_rows(const sparse::NormArgs<T>& args,
                                   const sparse::ChannelLists<sparse::Sum<T>>& channels, T* out,
                                   int64_t begin, int64_t end, sparse::Sum<T>* scratch))
FL_ISA_DECLARE(template <typename T> void reduce_gradients(
    const sparse::NormGradientArgs<T>& args, const sparse::ChannelLists<sparse::Sum<T>>& channels,
    int64_t begin, int64_t end, sparse::PartSums<sparse::Sum<T>> part, sparse::Sum<T>* scratch))
FL_ISA_DECLARE(template <typename T>
               void gradient_rows(const sparse::NormGradientArgs<T>& args,
                                  const sparse::ChannelLists<sparse::Sum<T>>& channels,
                                  int64_t begin, int64_t end, sparse::Sum<T>* scratch))
}  // namespace fl
