// SPDX-License-Identifier: Apache-2.0
//
// Segments on the CPU: a stable sort, unless rows lie in order as they are.
#include <atomic>
#include <numeric>
#include <vector>

#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "sparse/segment_cpu.h"
#include "sparse/segment_entry.h"

namespace fl::sparse {
namespace {

constexpr int64_t kGrain = 1 << 14;

// Whether keys ascend; raises for a segment that there is not.
bool make_keys(const SortArgs& a, uint32_t* keys) {
  std::atomic<int64_t> outside{-1};
  std::atomic<bool> ascending{true};
  parallel_for(0, a.n, kGrain, [&](int64_t begin, int64_t end) {
    uint32_t before = begin > 0 ? a.key(begin - 1) : 0;
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t key = keys[i] = a.key(i);
      if (key < before) ascending = false;
      if (a.segments[i] >= a.n_segments) outside = i;
      before = key;
    }
  });
  const int64_t where = outside;
  STD_TORCH_CHECK(where < 0, "sparse_segment_sort: segments: expected segments below ",
                  a.n_segments, ", got ", a.segments[where < 0 ? 0 : where], " at ", where);
  return ascending;
}

void find_starts(const SortArgs& a, const uint32_t* keys) {
  parallel_for(0, a.n + 1, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t before = i > 0 ? int64_t{keys[i - 1]} : -1;
      const int64_t key = i < a.n ? int64_t{keys[i]} : a.n_segments;
      for (int64_t segment = before + 1; segment <= key; ++segment) a.starts[segment] = i;
    }
  });
}

struct CpuSegment {
  static void sort(const SortArgs& a, const Tensor&) {
    std::vector<uint32_t> keys(a.n), sorted;
    std::iota(a.order, a.order + a.n, 0);
    if (make_keys(a, keys.data())) return find_starts(a, keys.data());
    STD_TORCH_CHECK(!a.is_sorted,
                    "sparse_segment_sort: segments: expected ascending segments, -1 last");
    sorted.resize(a.n);
    const std::vector<int32_t> rows(a.order, a.order + a.n);
    cpu::sort_pairs(keys.data(), sorted.data(), rows.data(), a.order, a.n, 0, a.key_bits());
    find_starts(a, sorted.data());
  }

  template <typename T>
  static void reduce(const ReduceArgs<T>& a, const Tensor&) {
    reduce_on_cpu(a);
  }

  template <typename T>
  static void put(const PickedArgs<T>& a, const Tensor&) {
    parallel_for(0, a.n, 256,
                 [&](int64_t begin, int64_t end) { FL_ISA_SELECT(put_picked<T>)(a, begin, end); });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_segment_sort", TORCH_BOX(&sparse_segment_sort<CpuSegment>));
  m.impl("sparse_segment_reduce", TORCH_BOX(&sparse_segment_reduce<CpuSegment>));
  m.impl("sparse_segment_picked_backward", TORCH_BOX(&sparse_segment_picked_backward<CpuSegment>));
}

}  // namespace fl::sparse
