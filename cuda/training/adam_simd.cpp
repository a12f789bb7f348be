// SPDX-License-Identifier: Apache-2.0
//
// Adam over a run of elements, in a form that the compiler vectorises at each instruction set.
#include "training/adam_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

template <typename T>
void adam_span(const training::AdamSpan<T>& span) {
  T* __restrict__ parameter = span.parameter;
  T* __restrict__ average = span.average;
  T* __restrict__ square = span.square;
  const T* __restrict__ gradient = span.gradient;
  const training::AdamStep<T> step = span.step;
  for (int64_t i = 0; i < span.count; ++i)
    training::adam_element(step, gradient[i], parameter[i], average[i], square[i]);
}

}  // namespace

void adam_span_float(const training::AdamSpan<float>& span) { adam_span(span); }
void adam_span_double(const training::AdamSpan<double>& span) { adam_span(span); }

}  // namespace FL_ISA
}  // namespace fl
