// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the forms of a kernel map: threads over taps.
#include <algorithm>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/map_forms_entry.h"
#include "sparse/row_order_cpu.h"

namespace fl::sparse {
namespace {

constexpr int64_t kTapGrain = 1;

// The pairs of every tap lie in the lists, and their rows below the given numbers.
void check_pairs(const PairInput& pairs, int64_t n_fine, int64_t n_coarse, const char* op) {
  const int64_t* starts = input<int64_t>(pairs.starts);
  STD_TORCH_CHECK(starts[0] == 0 && starts[pairs.taps] == pairs.count, op,
                  ": starts: expected 0 to ", pairs.count, ", got ", starts[0], " to ",
                  starts[pairs.taps]);
  for (int64_t tap = 0; tap < pairs.taps; ++tap)
    STD_TORCH_CHECK(starts[tap] <= starts[tap + 1], op,
                    ": starts: expected ascending numbers, got ", starts[tap], " before ",
                    starts[tap + 1]);
  const auto check = [&](const Tensor& rows, int64_t limit, const char* argument) {
    const int32_t* row = input<int32_t>(rows);
    uint32_t highest = 0;
    for (int64_t i = 0; i < pairs.count; ++i)
      highest = std::max(highest, static_cast<uint32_t>(row[i]));
    STD_TORCH_CHECK(pairs.count == 0 || highest < limit, op, ": ", argument,
                    ": expected rows in [0, ", limit, "), got ", static_cast<int32_t>(highest));
  };
  check(pairs.fine_rows, n_fine, "fine_rows");
  check(pairs.coarse_rows, n_coarse, "coarse_rows");
}

constexpr int64_t kAnyRow = int64_t{1} << 31;

struct CpuForms {
  static std::tuple<Tensor, Tensor, Tensor> table_pairs(const Tensor& table) {
    const int64_t taps = table.size(0), n = table.size(1);
    const int32_t* rows = input<int32_t>(table);
    const Tensor starts = new_empty(table, {taps + 1}, ScalarType::Long);
    int64_t* start = output<int64_t>(starts);
    start[0] = 0;
    parallel_for(0, taps, kTapGrain, [&](int64_t begin, int64_t end) {
      for (int64_t tap = begin; tap < end; ++tap)
        start[tap + 1] = std::count_if(rows + tap * n, rows + (tap + 1) * n,
                                       [](int32_t row) { return row >= 0; });
    });
    for (int64_t tap = 0; tap < taps; ++tap) start[tap + 1] += start[tap];
    const Tensor fine = new_empty(table, {start[taps]});
    const Tensor coarse = new_empty(table, {start[taps]});
    parallel_for(0, taps, kTapGrain, [&](int64_t begin, int64_t end) {
      for (int64_t tap = begin; tap < end; ++tap) {
        int64_t next = start[tap];
        for (int64_t i = 0; i < n; ++i) {
          if (rows[tap * n + i] < 0) continue;
          output<int32_t>(fine)[next] = rows[tap * n + i];
          output<int32_t>(coarse)[next++] = static_cast<int32_t>(i);
        }
      }
    });
    return {fine, coarse, starts};
  }

  static void pairs_table(const PairInput& pairs, int64_t n_coarse, int32_t* table) {
    check_pairs(pairs, kAnyRow, n_coarse, "sparse_pairs_table");
    const int64_t* starts = input<int64_t>(pairs.starts);
    parallel_for(0, pairs.taps, kTapGrain, [&](int64_t begin, int64_t end) {
      std::fill(table + begin * n_coarse, table + end * n_coarse, -1);
      for (int64_t tap = begin; tap < end; ++tap)
        for (int64_t i = starts[tap]; i < starts[tap + 1]; ++i)
          table[tap * n_coarse + input<int32_t>(pairs.coarse_rows)[i]] =
              input<int32_t>(pairs.fine_rows)[i];
    });
  }

  // Of several coarse rows with one partner the smallest stays.
  static void invert_table(const Tensor& table, int64_t n_fine, int32_t* inverse) {
    const int64_t taps = table.size(0), n = table.size(1);
    const int32_t* rows = input<int32_t>(table);
    const int32_t highest = taps * n > 0 ? *std::max_element(rows, rows + taps * n) : -1;
    STD_TORCH_CHECK(highest < n_fine, "sparse_invert_table: table: expected rows below ", n_fine,
                    ", got ", highest);
    parallel_for(0, taps, kTapGrain, [&](int64_t begin, int64_t end) {
      std::fill(inverse + begin * n_fine, inverse + end * n_fine, -1);
      for (int64_t tap = begin; tap < end; ++tap)
        for (int64_t i = n - 1; i >= 0; --i)
          if (rows[tap * n + i] >= 0)
            inverse[tap * n_fine + rows[tap * n + i]] = static_cast<int32_t>(i);
    });
  }

  static void invert_pairs(const PairInput& pairs, int64_t n_fine, int32_t* fine, int32_t* coarse) {
    check_pairs(pairs, n_fine, kAnyRow, "sparse_invert_pairs");
    const int64_t* starts = input<int64_t>(pairs.starts);
    std::copy_n(input<int32_t>(pairs.fine_rows), pairs.count, fine);
    std::copy_n(input<int32_t>(pairs.coarse_rows), pairs.count, coarse);
    std::vector<RowOrder> orders(thread_count(), RowOrder(n_fine));
    parallel_dynamic(pairs.taps, [&](int64_t tap, int64_t worker) {
      orders[worker].sort(fine + starts[tap], coarse + starts[tap], starts[tap + 1] - starts[tap]);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_table_pairs", TORCH_BOX(&sparse_table_pairs<CpuForms>));
  m.impl("sparse_pairs_table", TORCH_BOX(&sparse_pairs_table<CpuForms>));
  m.impl("sparse_invert_table", TORCH_BOX(&sparse_invert_table<CpuForms>));
  m.impl("sparse_invert_pairs", TORCH_BOX(&sparse_invert_pairs<CpuForms>));
}

}  // namespace fl::sparse
