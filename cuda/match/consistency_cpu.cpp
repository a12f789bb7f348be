// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of consistency: threads over rows.
#include "core/parallel.h"
#include "core/registration.h"
#include "match/consistency_entry.h"

namespace fl::match {
namespace {

struct CpuConsistency {
  static void run(const ConsistencyArgs& a, const Tensor&) {
    parallel_for(0, a.height, 16, [&](int64_t begin, int64_t end) {
      for (int y = static_cast<int>(begin); y < end; ++y)
        for (int x = 0; x < a.width; ++x)
          a.agreement[static_cast<int64_t>(y) * a.width + x] = agreement_of(a, x, y);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("match_consistency", TORCH_BOX(&match_consistency<CpuConsistency>));
}

}  // namespace fl::match
