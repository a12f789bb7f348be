// SPDX-License-Identifier: Apache-2.0
//
// Argument checks and tensor helpers of the core. Users meet the friendlier checks of ops.py first;
// these keep any direct caller of torch.ops.fieldline.* from reading out of bounds.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "core/allocate.h"

namespace fl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d)
    text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

// -1 in `sizes` accepts any extent.
inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> sizes, const char* op,
                        const char* argument) {
  bool good = tensor.dim() == static_cast<int64_t>(sizes.size());
  std::string wanted = "[";
  int64_t d = 0;
  for (int64_t size : sizes) {
    if (good && size >= 0 && tensor.size(d) != size) good = false;
    wanted += (d ? ", " : "") + (size < 0 ? std::string("*") : std::to_string(size));
    ++d;
  }
  STD_TORCH_CHECK(good, op, ": ", argument, ": expected shape ", wanted, "], got ",
                  shape_text(tensor));
}

inline void check_dtype(const Tensor& tensor, ScalarType dtype, const char* op,
                        const char* argument) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, op, ": ", argument, ": expected dtype code ",
                  static_cast<int>(dtype), ", got ", static_cast<int>(tensor.scalar_type()));
}

inline void check_same_device(const Tensor& tensor, const Tensor& like, const char* op,
                              const char* argument) {
  STD_TORCH_CHECK(
      tensor.is_cuda() == like.is_cuda() && tensor.get_device_index() == like.get_device_index(),
      op, ": ", argument, ": expected the device of the first tensor");
}

inline void check_float(const Tensor& tensor, const char* op, const char* argument) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double, op,
      ": ", argument, ": expected float32 or float64, got dtype code ",
      static_cast<int>(tensor.scalar_type()));
}

inline void check_image_size(int64_t width, int64_t height, const char* op) {
  STD_TORCH_CHECK(width > 0 && height > 0 && width < (1 << 24) && height < (1 << 24), op,
                  ": width, height: expected 1 to 2^24 pixels, got ", width, " x ", height);
}

inline void make_dense(Tensor& tensor) {
  if (!tensor.is_contiguous()) tensor = torch::stable::contiguous(tensor);
}

inline void make_dense(std::optional<Tensor>& tensor) {
  if (tensor.has_value()) make_dense(*tensor);
}

// Replaces each tensor that is not contiguous by a contiguous copy.
template <typename... Tensors>
void dense_all(Tensors&... tensors) {
  (make_dense(tensors), ...);
}

inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes,
                        std::optional<ScalarType> dtype = std::nullopt) {
  return allocate_like(like, sizes, dtype.has_value() ? *dtype : like.scalar_type());
}

inline Tensor new_zeros(const Tensor& like, std::initializer_list<int64_t> sizes,
                        std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, {sizes.begin(), sizes.size()}, dtype);
}

// A leading dimension of one, and without it.
inline Tensor lift(const Tensor& tensor) { return torch::stable::unsqueeze(tensor, 0); }

inline std::optional<Tensor> lift(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return lift(*tensor);
}

// Tensors of no elements stand for what was not asked for, and stay as they are.
inline Tensor drop(const Tensor& tensor) {
  return tensor.dim() > 1 && tensor.size(0) == 1 ? torch::stable::squeeze(tensor, 0) : tensor;
}

template <typename T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
const T* optional_input(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

template <typename T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls f(T{}) with the tensor's floating type.
template <typename F>
void dispatch_float(const Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == ScalarType::Double)
    f(double{});
  else
    f(float{});
}

}  // namespace fl
