// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the winning planes: threads over pixels.
#include "core/parallel.h"
#include "core/registration.h"
#include "match/winner_simd.h"

namespace fl::match {
namespace {

struct CpuWinner {
  static void run(const WinnerArgs& a, const Tensor&) {
    parallel_for(0, a.pixels, 4096,
                 [&](int64_t begin, int64_t end) { FL_ISA_SELECT(winner_run)(a, begin, end); });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("match_winner", TORCH_BOX(&match_winner<CpuWinner>)); }

}  // namespace fl::match
