// SPDX-License-Identifier: Apache-2.0
//
// The winning planes on the CPU: least values by whole vectors, then where the first of them is.
#include "match/winner_simd.h"

#include "core/simd.h"

namespace fl {
namespace FL_ISA {
namespace {

FL_SIMD uint16_t least_of(const uint16_t* values, int begin, int end) {
  uint16_t least = 0xffff;
  for (int d = begin; d < end; ++d) least = values[d] < least ? values[d] : least;
  return least;
}

FL_SIMD int rival_of(const uint16_t* total, int planes, int best) {
  const int left = best - match::kSamePlanes, right = best + match::kSamePlanes + 1;
  const int a = left > 0 ? least_of(total, 0, left) : 0xffff;
  const int b = right < planes ? least_of(total, right, planes) : 0xffff;
  const int rival = a < b ? a : b;
  return rival == 0xffff ? 0 : rival;
}

}  // namespace

void winner_run(const match::WinnerArgs& a, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const uint16_t* total = a.total + pixel * a.planes;
    const uint16_t least = least_of(total, 0, a.planes);
    int best = 0;
    while (total[best] != least) ++best;
    match::store_winner(a, pixel,
                        match::finish_winner(total, a.cost + pixel * a.planes, a.planes, best,
                                             rival_of(total, a.planes, best)));
  }
}

}  // namespace FL_ISA
}  // namespace fl
