// SPDX-License-Identifier: Apache-2.0
//
// Nodes and leaves counted in one 64-bit number, so that one scan places both: the leaves in its
// low 36 bits, enough for all that 2^24 tops can hold, the nodes above.
#pragma once

#include "vdb/masks.h"

namespace fl::vdb {

constexpr int kLeafCountBits = 36;

FL_HD int64_t count_node(uint64_t mask) {
  return mask != 0 ? (int64_t{1} << kLeafCountBits) + count_bits(mask) : 0;
}
FL_HD int64_t nodes_in(int64_t count) { return count >> kLeafCountBits; }
FL_HD int64_t leaves_in(int64_t count) { return count & ((int64_t{1} << kLeafCountBits) - 1); }

}  // namespace fl::vdb
