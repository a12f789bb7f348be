// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of reductions over segments: threads over short segments and over blocks of long
// ones, then over the long ones' parts.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/parallel.h"
#include "sparse/segment_simd.h"

namespace fl::sparse {

template <typename T>
class LongSegments {
 public:
  explicit LongSegments(const ReduceArgs<T>& a)
      : a_(a),
        n_parts_(2 * a.segments.n_blocks()),
        sums_(n_parts_ * a.channels),
        places_(a.picks() ? n_parts_ * a.channels : 0),
        counts_(n_parts_, 0) {}

  void run() {
    parallel_for(0, n_parts_, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        counts_[i] = FL_ISA_SELECT(reduce_part<T>)(a_, part_of(i).range, at(i));
      }
    });
    parallel_for(0, n_parts_, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const SegmentPart part = part_of(i);
        if (part.starts_here) combine(part.segment);
      }
    });
  }

 private:
  SegmentPart part_of(int64_t i) const {
    return part_of_block(a_.segments, i / 2, static_cast<int>(i % 2));
  }

  Reduced<T> at(int64_t i) {
    return {sums_.data() + i * a_.channels, places_.data() + (a_.picks() ? i * a_.channels : 0),
            counts_[i]};
  }

  // Into the first part, which no other segment reads.
  void combine(int64_t segment) {
    const PartPlaces parts(a_.segments.range(segment));
    Reduced<T> all = at(parts[0]);
    for (int64_t k = 1; k < parts.count(); ++k) FL_ISA_SELECT(join_part<T>)(a_, at(parts[k]), all);
    FL_ISA_SELECT(store_reduced<T>)(a_, segment, all);
  }

  const ReduceArgs<T>& a_;
  int64_t n_parts_;
  std::vector<Sum<T>> sums_;
  std::vector<int32_t> places_;
  std::vector<int64_t> counts_;
};

template <typename T>
void reduce_on_cpu(const ReduceArgs<T>& a) {
  const int64_t n = a.segments.n_segments;
  const int64_t at_once = std::clamp<int64_t>(n / 64, 1, 512);
  std::atomic<bool> any_long{false};
  parallel_dynamic((n + at_once - 1) / at_once, [&](int64_t chunk, int64_t) {
    std::vector<Sum<T>> sums(a.channels);
    std::vector<int32_t> places(a.picks() ? a.channels : 0);
    const Reduced<T> scratch{sums.data(), places.data(), 0};
    if (FL_ISA_SELECT(reduce_short<T>)(a, scratch, chunk * at_once,
                                       std::min(n, (chunk + 1) * at_once)))
      any_long = true;
  });
  if (any_long) LongSegments<T>(a).run();
}

}  // namespace fl::sparse
