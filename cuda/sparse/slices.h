// SPDX-License-Identifier: Apache-2.0
//
// Many tensors in one allocation. They are told of first; then the memory is there, and each is a
// view of it that starts at a multiple of 16 bytes and keeps all of it alive.
#pragma once

#include <initializer_list>
#include <vector>

#include "core/check.h"

namespace fl::sparse {

template <typename T>
class Slices {
 public:
  explicit Slices(ScalarType dtype) : dtype_(dtype) {}

  // Where a tensor of so many values will begin.
  int64_t add(int64_t count) {
    constexpr int64_t step = 16 / sizeof(T);
    const int64_t offset = total_;
    total_ += (count + step - 1) / step * step;
    return offset;
  }

  void allocate(const Tensor& like) { memory_ = new_empty(like, {total_}, dtype_); }

  int64_t total() const { return total_; }
  T* data() const { return output<T>(memory_); }
  T* at(int64_t offset) const { return data() + offset; }

  // By the short way: as an operator, a view costs the host as much as a small kernel.
  Tensor view(int64_t offset, std::initializer_list<int64_t> sizes) const {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (std::size_t d = sizes.size(); d-- > 0; stride *= sizes.begin()[d]) strides[d] = stride;
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch__reinterpret_tensor(memory_.get(), static_cast<int64_t>(sizes.size()),
                                       sizes.begin(), strides.data(), offset, &handle));
    return Tensor(handle);
  }

 private:
  ScalarType dtype_;
  int64_t total_ = 0;
  Tensor memory_;
};

}  // namespace fl::sparse
