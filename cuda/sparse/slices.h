// SPDX-License-Identifier: Apache-2.0
//
// Many arrays in one allocation. They are told of first; then the memory is there, and each starts
// at a multiple of 16 bytes. network_ops.py cuts it in the same way.
#pragma once

#include "core/check.h"

namespace fl::sparse {

template <typename T>
class Slices {
 public:
  explicit Slices(ScalarType dtype) : dtype_(dtype) {}

  // Where an array of so many values will begin.
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

  const Tensor& memory() const { return memory_; }

 private:
  ScalarType dtype_;
  int64_t total_ = 0;
  Tensor memory_;
};

}  // namespace fl::sparse
