// SPDX-License-Identifier: Apache-2.0
//
// Segments on the CPU. Rows are sorted by counting: segments are few beside the digits of a key,
// and where each begins is wanted too.
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

// Whether segments ascend; raises for one that there is not.
bool check_segments(const SortArgs& a) {
  std::atomic<int64_t> outside{-1};
  std::atomic<bool> ascending{true};
  parallel_for(0, a.n, kGrain, [&](int64_t begin, int64_t end) {
    uint32_t before = begin > 0 ? a.key(begin - 1) : 0;
    bool ascends = true;
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t key = a.key(i);
      ascends = ascends && before <= key;
      if (a.segments[i] >= a.n_segments) outside = i;
      before = key;
    }
    if (!ascends) ascending = false;
  });
  const int64_t where = outside;
  STD_TORCH_CHECK(where < 0, "sparse_segment_sort: segments: expected segments below ",
                  a.n_segments, ", got ", a.segments[where], " at ", where);
  return ascending;
}

// Of rows that lie in order: a segment begins where the key changes to it or passes it by.
void find_starts(const SortArgs& a) {
  parallel_for(0, a.n + 1, kGrain, [&](int64_t begin, int64_t end) {
    int64_t before = begin > 0 ? int64_t{a.key(begin - 1)} : -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t key = i < a.n ? int64_t{a.key(i)} : a.n_segments;
      for (int64_t segment = before + 1; segment <= key; ++segment) a.starts[segment] = i;
      before = key;
    }
  });
}

// Equal parts of the rows, each of one thread, are counted and then moved. Each part's table has an
// entry a segment, so that there is one part alone where segments are many.
void sort_by_counting(const SortArgs& a) {
  const int64_t n_keys = a.n_segments + 1;
  const int64_t parts = n_keys > 4 * a.n ? 1 : std::clamp<int64_t>(a.n / kGrain, 1, thread_count());
  std::vector<int32_t> tables(parts * n_keys, 0);
  const auto each_part = [&](const auto& f) {
    parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part)
        for (int64_t i = a.n * part / parts; i < a.n * (part + 1) / parts; ++i)
          f(tables[part * n_keys + a.key(i)], i);
    });
  };
  each_part([](int32_t& count, int64_t) { ++count; });
  parallel_for(0, n_keys, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t key = begin; key < end; ++key) {
      a.starts[key] = 0;
      for (int64_t part = 0; part < parts; ++part) a.starts[key] += tables[part * n_keys + key];
    }
  });
  cpu::exclusive_scan(a.starts, a.starts, n_keys);
  parallel_for(0, n_keys, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t key = begin; key < end; ++key) {
      int32_t next = static_cast<int32_t>(a.starts[key]);
      for (int64_t part = 0; part < parts; ++part)
        next += std::exchange(tables[part * n_keys + key], next);
    }
  });
  each_part([&](int32_t& next, int64_t i) { a.order[next++] = static_cast<int32_t>(i); });
}

struct CpuSegment {
  static void sort(const SortArgs& a, const Tensor&) {
    if (check_segments(a)) {
      std::iota(a.order, a.order + a.n, 0);
      return find_starts(a);
    }
    STD_TORCH_CHECK(!a.is_sorted,
                    "sparse_segment_sort: segments: expected ascending segments, -1 last");
    sort_by_counting(a);
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
