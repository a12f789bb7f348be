// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of semi-global aggregation: one axis after the other, threads over blocks of lines.
// A pixel lies on one line of an axis, so that no two threads add to the same number.
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "match/aggregate_simd.h"

namespace fl::match {
namespace {

struct CpuAggregate {
  static void run(const AggregateArgs& a, const Tensor&) {
    constexpr int64_t kStates = int64_t{2} * kBlockLines * kStateSize;
    std::vector<uint16_t> states(kStates * thread_count());
    for (int axis = 0; axis < kPaths / 2; ++axis) {
      const int lines = line_count(axis_of(axis), a.width, a.height);
      parallel_dynamic((lines + kBlockLines - 1) / kBlockLines, [&](int64_t block, int64_t worker) {
        const int first = static_cast<int>(block) * kBlockLines;
        FL_ISA_SELECT(aggregate_block)
        (a, axis, first, std::min(kBlockLines, lines - first), axis == 0,
         states.data() + worker * kStates);
      });
    }
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("match_sgm", TORCH_BOX(&match_sgm<CpuAggregate>)); }

}  // namespace fl::match
