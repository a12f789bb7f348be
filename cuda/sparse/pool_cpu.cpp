// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of pooling: threads over blocks of rows, each with a cursor in every tap's pairs.
#include <algorithm>
#include <atomic>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/pool_entry.h"
#include "sparse/pool_simd.h"

namespace fl::sparse {
namespace {

// The sums of a block fit the first cache beside the rows that come by.
template <typename T>
int64_t rows_at_once(int64_t channels) {
  constexpr int64_t bytes = 16 << 10;
  const int64_t rows =
      bytes / static_cast<int64_t>(sizeof(Sum<T>)) / std::max<int64_t>(channels, 1);
  return std::clamp<int64_t>(rows, 16, 512);
}

std::vector<int64_t> cursors_at(const PoolMap& map, int64_t row) {
  std::vector<int64_t> cursors(map.n_taps);
  for (int tap = 0; tap < map.n_taps; ++tap)
    cursors[tap] =
        std::lower_bound(map.to_rows + map.starts[tap], map.to_rows + map.starts[tap + 1], row) -
        map.to_rows;
  return cursors;
}

struct CpuPool {
  static int64_t check_map(const PoolMapInput& in, int64_t, const char* op) {
    const int64_t n_taps = in.starts.size(0) - 1, n_pairs = in.from_rows.size(0);
    const int64_t* starts = input<int64_t>(in.starts);
    STD_TORCH_CHECK(n_taps >= 0 && starts[0] == 0 && starts[n_taps] == n_pairs &&
                        std::is_sorted(starts, starts + n_taps + 1),
                    op, ": starts: expected ascending starts from 0 to ", n_pairs, " pairs");
    return n_taps;
  }

  template <typename T>
  static void run(const PoolArgs<T>& a, const Tensor&, const char* op) {
    const int64_t rows = rows_at_once<T>(a.channels);
    std::atomic<int64_t> used{0};
    parallel_for(0, (a.n_to + rows - 1) / rows, 4, [&](int64_t first, int64_t last) {
      std::vector<Sum<T>> sums(rows * a.channels);
      std::vector<int32_t> places(a.kind == PoolKind::max ? rows * a.channels : 0), counts(rows);
      std::vector<int64_t> cursors = cursors_at(a.map, first * rows);
      const PoolScratch<T> scratch{sums.data(), places.data(), counts.data(), cursors.data()};
      int64_t here = 0;
      for (int64_t block = first; block < last; ++block)
        here += FL_ISA_SELECT(pool_block<T>)(a, scratch, block * rows,
                                             std::min(a.n_to, (block + 1) * rows));
      used += here;
    });
    STD_TORCH_CHECK(used == a.map.n_pairs, op, ": in_rows, out_rows: expected rows below ",
                    a.n_from, " and ", a.n_to, ", the latter ascending within each tap, in all ",
                    a.map.n_pairs, " pairs, got ", used.load(), " such pairs");
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_pool", TORCH_BOX(&sparse_pool<CpuPool>));
  m.impl("sparse_pool_backward", TORCH_BOX(&sparse_pool_backward<CpuPool>));
}

}  // namespace fl::sparse
