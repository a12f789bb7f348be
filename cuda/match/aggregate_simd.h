// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels of aggregate_simd.cpp take: a block of neighbouring lines of one axis, and
// a row of pixels of which the best plane is wanted.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "match/aggregate_entry.h"

namespace fl::match {

constexpr int kBlockLines = 16;
// A state is a path's costs at one pixel: planes, with room on both sides for the neighbours of
// the first and the last, in whole vectors.
constexpr int kStateMargin = 32;
constexpr int kStateSize = kMaxPlanes + 2 * kStateMargin;

// Adds both directions of lines [first_line, first_line + count) to `total`, or writes it, if
// `fresh`. `states` holds 2 * kBlockLines * kStateSize values.
using AggregateBlock = void(const AggregateArgs& args, int axis, int first_line, int count,
                            bool fresh, uint16_t* states);

}  // namespace fl::match

namespace fl {
FL_ISA_DECLARE(match::AggregateBlock aggregate_block)
}  // namespace fl
