// SPDX-License-Identifier: Apache-2.0
//
// What adam_cpu.cpp asks of adam_simd.cpp: elements [first, last) of one tensor.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "training/adam.h"

namespace fl::training {

template <typename T>
struct AdamSpan {
  T *parameter, *average, *square;
  const T* gradient;
  int64_t count;
  AdamStep<T> step;
};

}  // namespace fl::training

namespace fl {
FL_ISA_DECLARE(void adam_span_float(const training::AdamSpan<float>& span))
FL_ISA_DECLARE(void adam_span_double(const training::AdamSpan<double>& span))
}  // namespace fl
