// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernel of winner_simd.cpp takes: a run of pixels.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "match/winner_entry.h"

namespace fl::match {
using WinnerRun = void(const WinnerArgs& args, int64_t begin, int64_t end);
}  // namespace fl::match

namespace fl {
FL_ISA_DECLARE(match::WinnerRun winner_run)
}  // namespace fl
