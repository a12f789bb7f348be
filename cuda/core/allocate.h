// SPDX-License-Identifier: Apache-2.0
//
// Tensors without contents, by the shortest way into torch's allocator: an operator makes a dozen,
// and each through the dispatcher would cost as much as a small kernel.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace fl {

inline torch::stable::Tensor allocate(std::initializer_list<int64_t> sizes,
                                      torch::headeronly::ScalarType dtype, int32_t device_type,
                                      int32_t device_index) {
  constexpr std::size_t most_dimensions = 8;
  std::array<int64_t, most_dimensions> strides{};
  STD_TORCH_CHECK(sizes.size() <= most_dimensions, "allocate: expected at most 8 dimensions");
  int64_t stride = 1;
  for (std::size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= sizes.begin()[d] > 1 ? sizes.begin()[d] : 1;
  }
  const int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(),
                                                  strides.data(), code, device_type, device_index,
                                                  &handle));
  return torch::stable::Tensor(handle);
}

inline torch::stable::Tensor allocate_like(const torch::stable::Tensor& like,
                                           std::initializer_list<int64_t> sizes,
                                           torch::headeronly::ScalarType dtype) {
  int32_t type = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  return allocate(sizes, dtype, type, index);
}

}  // namespace fl
