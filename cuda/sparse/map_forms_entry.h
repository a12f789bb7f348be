// SPDX-License-Identifier: Apache-2.0
//
// The two forms of a kernel map, tables and pairs, turned into each other and around, as torch sees
// them: checks and outputs, the work left to a Backend.
#pragma once

#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>

#include "core/check.h"

namespace fl::sparse {

inline void check_table(const Tensor& table, const char* op) {
  check_dtype(table, ScalarType::Int, op, "table");
  check_shape(table, {-1, -1}, op, "table");
}

inline void check_rows(int64_t rows, const char* op, const char* argument) {
  STD_TORCH_CHECK(rows >= 0 && rows <= std::numeric_limits<int32_t>::max(), op, ": ", argument,
                  ": expected 0 to 2^31 - 1 rows, got ", rows);
}

struct PairInput {
  Tensor fine_rows, coarse_rows, starts;
  int64_t count, taps;

  PairInput(Tensor fine_in, Tensor coarse_in, Tensor starts_in, const char* op)
      : fine_rows(std::move(fine_in)),
        coarse_rows(std::move(coarse_in)),
        starts(std::move(starts_in)) {
    check_dtype(fine_rows, ScalarType::Int, op, "fine_rows");
    check_shape(fine_rows, {-1}, op, "fine_rows");
    check_dtype(coarse_rows, ScalarType::Int, op, "coarse_rows");
    check_shape(coarse_rows, {fine_rows.size(0)}, op, "coarse_rows");
    check_same_device(coarse_rows, fine_rows, op, "coarse_rows");
    check_dtype(starts, ScalarType::Long, op, "starts");
    check_shape(starts, {-1}, op, "starts");
    check_same_device(starts, fine_rows, op, "starts");
    STD_TORCH_CHECK(starts.size(0) >= 1, op, ": starts: expected shape [K + 1], got [0]");
    dense_all(fine_rows, coarse_rows, starts);
    count = fine_rows.size(0);
    taps = starts.size(0) - 1;
  }
};

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> sparse_table_pairs(Tensor table) {
  check_table(table, "sparse_table_pairs");
  make_dense(table);
  return Backend::table_pairs(table);
}

template <typename Backend>
Tensor sparse_pairs_table(Tensor fine_rows, Tensor coarse_rows, Tensor starts, int64_t n_coarse) {
  const PairInput pairs(fine_rows, coarse_rows, starts, "sparse_pairs_table");
  check_rows(n_coarse, "sparse_pairs_table", "n_coarse");
  const Tensor table = new_empty(pairs.fine_rows, {pairs.taps, n_coarse});
  Backend::pairs_table(pairs, n_coarse, output<int32_t>(table));
  return table;
}

template <typename Backend>
Tensor sparse_invert_table(Tensor table, int64_t n_fine) {
  check_table(table, "sparse_invert_table");
  check_rows(n_fine, "sparse_invert_table", "n_fine");
  make_dense(table);
  const Tensor inverse = new_empty(table, {table.size(0), n_fine});
  Backend::invert_table(table, n_fine, output<int32_t>(inverse));
  return inverse;
}

template <typename Backend>
std::tuple<Tensor, Tensor> sparse_invert_pairs(Tensor fine_rows, Tensor coarse_rows, Tensor starts,
                                               int64_t n_fine) {
  const PairInput pairs(fine_rows, coarse_rows, starts, "sparse_invert_pairs");
  check_rows(n_fine, "sparse_invert_pairs", "n_fine");
  const Tensor fine = new_empty(pairs.fine_rows, {pairs.count});
  const Tensor coarse = new_empty(pairs.fine_rows, {pairs.count});
  Backend::invert_pairs(pairs, n_fine, output<int32_t>(fine), output<int32_t>(coarse));
  return {fine, coarse};
}

}  // namespace fl::sparse
