// SPDX-License-Identifier: Apache-2.0
//
// Bytes to bits and back: what building from a dense tensor and writing one share.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fl::vdb {

// The four bits that say which of four bytes are not zero; the first byte is the lowest bit.
FL_HD uint32_t bits_of_bytes(uint32_t bytes) {
  const uint32_t high = (((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes) & 0x80808080u;
  return ((high >> 7) * 0x01020408u) >> 24 & 0xfu;
}

// The reverse: bytes of 0 and 1.
FL_HD uint32_t bytes_of_bits(uint32_t bits) { return ((bits & 0xfu) * 0x00204081u) & 0x01010101u; }

}  // namespace fl::vdb
