// SPDX-License-Identifier: Apache-2.0
//
// Reductions over segments, for the operators that come down to one.
#pragma once

#include "core/check.h"
#include "sparse/segment.h"

namespace fl::sparse {

template <typename T>
void reduce_on_cpu(const ReduceArgs<T>& a);

// `like` says which GPU.
template <typename T>
void reduce_on_gpu(const ReduceArgs<T>& a, const Tensor& like);

}  // namespace fl::sparse
