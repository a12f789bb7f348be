// SPDX-License-Identifier: Apache-2.0
//
// The order in which implicit GEMM takes output rows. A block computes a tile of rows at once, and
// must work on every tap that any of its rows has: rows with the same taps should lie together. The
// taps are dealt into `splits` runs of neighbours, since rows agree far better about 9 taps than
// about 27, and in each split the rows are sorted by the bit mask of the taps they have. Short runs
// count in Gray code: where one mask gives way to the next, as few taps as can be change. Of long
// runs few tiles hold rows of one mask alone, and what counts is that tiles of many taps, of which
// a block may have three times the mean, stand together at the end.
//
//   order       int32 [2, splits, n_out]: the row at each place, then the place of each row, -1 if
//               the row has none of the split's taps
//   tile_masks  int32 [splits, tiles]: the taps that some row of a tile has, bit 0 the first
//   table       int32 [K, n_out]: the table with each tap's columns in the order of its split
#pragma once

#include <cstdint>
#include <tuple>

#include "core/check.h"
#include "core/macros.h"

namespace fl::sparse {

constexpr int64_t kMostSplitTaps = 32;  // bits of a tile's mask
constexpr int64_t kMostGrayTaps = 16;

FL_HD int64_t taps_per_split(int64_t n_taps, int64_t splits) {
  return (n_taps + splits - 1) / splits;
}

// A mask's place in Gray code and its split above it: one sort serves all splits.
struct PlanShape {
  int64_t n_taps, n_out, splits, tile_rows, split_taps, tiles;

  FL_HD bool in_gray_code() const { return split_taps <= kMostGrayTaps; }
  FL_HD int64_t first_tap(int64_t split) const { return split * split_taps; }
  FL_HD int64_t end_tap(int64_t split) const {
    const int64_t end = first_tap(split) + split_taps;
    return end < n_taps ? end : n_taps;
  }
  FL_HD uint64_t key(uint64_t mask, int64_t split) const {
    uint64_t rank = mask;
    for (int shift = 1; in_gray_code() && shift < kMostGrayTaps; shift *= 2) rank ^= rank >> shift;
    return static_cast<uint64_t>(split) << split_taps | rank;
  }
  FL_HD uint32_t mask(uint64_t key) const {
    const uint64_t rank = key & ((uint64_t{1} << split_taps) - 1);
    return static_cast<uint32_t>(in_gray_code() ? rank ^ rank >> 1 : rank);
  }
  int key_bits() const {
    int bits = static_cast<int>(split_taps);
    while (splits > int64_t{1} << (bits - split_taps)) ++bits;
    return bits;
  }
};

inline void check_splits(int64_t n_taps, int64_t n_out, int64_t splits, const char* op) {
  STD_TORCH_CHECK(splits > 0 && splits <= (n_taps > 0 ? n_taps : 1) &&
                      taps_per_split(n_taps, splits) <= kMostSplitTaps,
                  op, ": splits: expected 1 to K of at most ", kMostSplitTaps, " taps for ", n_taps,
                  " taps, got ", splits);
  STD_TORCH_CHECK(n_out * splits < (int64_t{1} << 31), op, ": table: expected below 2^31 rows in ",
                  splits, " splits, got ", n_out);
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> sparse_conv_plan(Tensor table, int64_t splits,
                                                    int64_t tile_rows) {
  const char* op = "sparse_conv_plan";
  check_dtype(table, ScalarType::Int, op, "table");
  check_shape(table, {-1, -1}, op, "table");
  make_dense(table);
  const int64_t n_taps = table.size(0), n_out = table.size(1);
  check_splits(n_taps, n_out, splits, op);
  STD_TORCH_CHECK(tile_rows == 64 || tile_rows == 128, op, ": tile_rows: expected 64 or 128, got ",
                  tile_rows);
  const PlanShape shape{n_taps,
                        n_out,
                        splits,
                        tile_rows,
                        taps_per_split(n_taps, splits),
                        (n_out + tile_rows - 1) / tile_rows};
  const Tensor order = new_empty(table, {2, splits, n_out});
  const Tensor tile_masks = new_empty(table, {splits, shape.tiles});
  const Tensor permuted = new_empty(table, {n_taps, n_out});
  if (n_out > 0)
    Backend::run(shape, table, output<int32_t>(order), output<int32_t>(tile_masks),
                 output<int32_t>(permuted));
  return {order, tile_masks, permuted};
}

}  // namespace fl::sparse
