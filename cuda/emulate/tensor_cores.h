// SPDX-License-Identifier: Apache-2.0
//
// Tensor-core instructions for the emulator: the lanes of a warp lay their registers out for each
// other, and each computes its own part of the result. Blocks are one-dimensional. Asynchronous
// copies are made at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulate/emulator.h"

namespace fl {
namespace emulate {

// What the lanes of each warp show each other between two barriers of the warp.
template <typename T>
const T* exchange(const T& mine) {
  static T shown[1024 / 32][32];
  T* const warp = shown[threadIdx.x / 32];
  __syncwarp();
  warp[threadIdx.x % 32] = mine;
  __syncwarp();
  return warp;
}

// ldmatrix.x4 (.trans): lane i names row i % 8 of matrix i / 8, of eight rows of 16 bytes.
inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
  const void* const* rows = exchange(row);
  const unsigned outer = threadIdx.x % 32 / 4, inner = threadIdx.x % 4;
  for (unsigned m = 0; m < 4; ++m) {
    const auto value = [&](unsigned i, unsigned j) {
      uint16_t found;
      std::memcpy(&found, static_cast<const unsigned char*>(rows[m * 8 + i]) + j * 2, 2);
      return static_cast<uint32_t>(found);
    };
    r[m] = transposed ? value(2 * inner, outer) | value(2 * inner + 1, outer) << 16
                      : value(outer, 2 * inner) | value(outer, 2 * inner + 1) << 16;
  }
}

struct MmaOperands {
  uint32_t x[4], w[2];
};

// mma.m16n8k16 of 16-bit values, or m16n8k8 of 32-bit ones; `value(bits, i)` is the i-th value of a
// register, of which there are kPerRegister.
template <int kPerRegister, typename Value>
void multiply_matrices(float (&d)[4], const MmaOperands& mine, const Value& value) {
  const MmaOperands* lanes = exchange(mine);
  const unsigned group = threadIdx.x % 32 / 4, inner = threadIdx.x % 4;
  for (unsigned k = 0; k < 4; ++k) {
    const auto add = [&](float& sum, unsigned lower, unsigned column) {
      for (unsigned upper = 0; upper < 2; ++upper)
        for (int i = 0; i < kPerRegister; ++i)
          sum += value(lanes[group * 4 + k].x[lower + 2 * upper], i) *
                 value(lanes[(2 * inner + column) * 4 + k].w[upper], i);
    };
    add(d[0], 0, 0);
    add(d[1], 0, 1);
    add(d[2], 1, 0);
    add(d[3], 1, 1);
  }
}

}  // namespace emulate
}  // namespace fl
