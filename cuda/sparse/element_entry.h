// SPDX-License-Identifier: Apache-2.0
//
// Features as torch sees them: which dtypes there are, and a call with the type of each.
#pragma once

#include "core/check.h"
#include "sparse/element.h"

namespace fl::sparse {

inline void check_element(const Tensor& tensor, const char* op, const char* argument) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::Half || type == ScalarType::BFloat16,
                  op, ": ", argument,
                  ": expected float32, float64, float16 or bfloat16, got dtype code ",
                  static_cast<int>(type));
}

inline ScalarType sum_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f(T{}) with the tensor's type.
template <typename F>
void dispatch_element(const Tensor& tensor, F&& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

}  // namespace fl::sparse
