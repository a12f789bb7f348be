// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernel of sweep_simd.cpp takes: a band of rows, all planes and neighbours.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "match/sweep_entry.h"

namespace fl::match {

constexpr int kBandRows = 16;
constexpr int kBandInput = kBandRows + 2 * kRadius;
// Rows of scratch begin and end with a margin for windows and whole vectors.
constexpr int kMargin = 64;

// Scratch of one thread; every row is `stride` long and starts kMargin before column 0.
struct SweepScratch {
  int stride;
  int16_t *reference, *warped;    // [kBandInput, stride]
  uint8_t *reference8, *warped8;  // [kBandInput, stride]
  uint8_t* census;                // [kBandRows, kCensusPairs, stride]: 255 where a > b
  int32_t* reference_sum;         // [kBandRows, stride]
  float* reference_inverse;       // [kBandRows, stride]
  uint8_t* seen;                  // [kBandRows, stride]: 255 or 0
  int32_t* sums;                  // [3, stride] vertical, then [3, stride] of windows
  uint8_t* differing;             // [stride]
  uint8_t* chosen;                // [kBandRows, kMaxBest, stride]
  uint8_t* costs;                 // [kBandRows, planes, stride]
};

using SweepBand = void(const SweepArgs& args, const SweepScratch& scratch, int first_row,
                       int row_count);

}  // namespace fl::match

namespace fl {
FL_ISA_DECLARE(match::SweepBand sweep_band)
}  // namespace fl
