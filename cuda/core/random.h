// SPDX-License-Identifier: Apache-2.0
//
// Random numbers by counter: the n-th draw of a seed is a function of the two, the same on every
// device and for any number of threads, and there is no state to save.
// Philox 4x32 with 10 rounds; Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace fl {

struct Random4 {
  uint32_t v[4];
};

// Four independent uniform 32-bit words for each (index, stream) of a seed.
FL_HD Random4 philox(uint64_t seed, uint64_t index, uint64_t stream) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// In (0, 1].
template <typename T>
FL_HD T uniform_from_bits(uint32_t bits) {
  return (static_cast<T>(bits >> 8) + T(1)) * T(1.0 / 16777216.0);
}

// Two independent standard normal numbers from two words (Box and Muller).
template <typename T>
FL_HD void normals_from_bits(uint32_t a, uint32_t b, T& first, T& second) {
  const T radius = std::sqrt(T(-2) * std::log(uniform_from_bits<T>(a)));
  const T angle = T(6.283185307179586) * uniform_from_bits<T>(b);
  first = radius * std::cos(angle);
  second = radius * std::sin(angle);
}

}  // namespace fl
