// SPDX-License-Identifier: Apache-2.0
//
// Pooling on the CPU: the sums of a block of rows stay in the first cache while the taps bring
// theirs, one tap after the other.
#include "sparse/pool_simd.h"

#include "sparse/rows_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using sparse::PoolArgs;
using sparse::PoolKind;
using sparse::PoolScratch;

template <typename T>
FL_SIMD void add_picked_row(Sum<T>* __restrict__ sum, const T* __restrict__ row,
                            const int16_t* __restrict__ picks, int tap, int64_t n) {
  for (int64_t c = 0; c < n; ++c) sum[c] += picks[c] == tap ? sparse::widen(row[c]) : Sum<T>(0);
}

template <PoolKind kKind, typename T>
FL_SIMD void join(const PoolArgs<T>& a, int64_t from, int tap, bool first, Sum<T>* sum,
                  int32_t* places) {
  const int64_t n = a.channels;
  const T* row = a.from + from * n;
  if constexpr (kKind == PoolKind::picked) {
    if (first) fill_row(sum, Sum<T>(0), n);
    add_picked_row(sum, row, a.picks + from * n, tap, n);
  } else if (first) {
    copy_row(sum, row, n);
    if constexpr (kKind == PoolKind::max) fill_row(places, tap, n);
  } else if constexpr (kKind == PoolKind::max) {
    keep_row<true>(sum, places, row, tap, n);
  } else {
    add_row(sum, row, n);
  }
}

template <PoolKind kKind, typename T>
FL_SIMD void finish(const PoolArgs<T>& a, int64_t row, int count, const Sum<T>* sum,
                    const int32_t* places) {
  const int64_t n = a.channels;
  T* to = a.to + row * n;
  if (count == 0)
    fill_row(to, T{}, n);
  else if (kKind == PoolKind::mean)
    store_mean(to, sum, Sum<T>(count), n);
  else
    store_row(to, sum, n);
  if constexpr (kKind == PoolKind::mean) a.kept[row] = static_cast<int16_t>(count);
  if constexpr (kKind == PoolKind::max)
    for (int64_t c = 0; c < n; ++c)
      a.kept[row * n + c] = static_cast<int16_t>(count == 0 ? -1 : places[c]);
}

template <PoolKind kKind, typename T>
FL_SIMD int64_t pool(const PoolArgs<T>& a, const PoolScratch<T>& s, int64_t begin, int64_t end) {
  const uint64_t rows = static_cast<uint64_t>(end - begin);
  int64_t used = 0;
  for (uint64_t row = 0; row < rows; ++row) s.counts[row] = 0;
  for (int tap = 0; tap < a.map.n_taps; ++tap) {
    int64_t pair = s.cursors[tap];
    const int64_t last = a.map.starts[tap + 1];
    for (; pair < last && a.map.to_rows[pair] < end; ++pair) {
      const uint64_t row = static_cast<uint64_t>(a.map.to_rows[pair] - begin);
      const int64_t from = a.map.from_rows[pair];
      if (row >= rows || static_cast<uint64_t>(from) >= static_cast<uint64_t>(a.n_from)) continue;
      const int64_t at = static_cast<int64_t>(row) * a.channels;
      join<kKind>(a, from, tap, s.counts[row] == 0, s.sums + at, s.places + at);
      ++s.counts[row];
      ++used;
    }
    s.cursors[tap] = pair;
  }
  for (uint64_t row = 0; row < rows; ++row) {
    const int64_t at = static_cast<int64_t>(row) * a.channels;
    finish<kKind>(a, begin + static_cast<int64_t>(row), s.counts[row], s.sums + at, s.places + at);
  }
  return used;
}

}  // namespace

template <typename T>
int64_t pool_block(const PoolArgs<T>& a, const PoolScratch<T>& scratch, int64_t begin,
                   int64_t end) {
  switch (a.kind) {
    case PoolKind::sum:
      return pool<PoolKind::sum>(a, scratch, begin, end);
    case PoolKind::mean:
      return pool<PoolKind::mean>(a, scratch, begin, end);
    case PoolKind::max:
      return pool<PoolKind::max>(a, scratch, begin, end);
    default:
      return pool<PoolKind::picked>(a, scratch, begin, end);
  }
}

#define FL_INSTANTIATE(T) \
  template int64_t pool_block(const PoolArgs<T>&, const PoolScratch<T>&, int64_t, int64_t);
FL_INSTANTIATE(float)
FL_INSTANTIATE(double)
FL_INSTANTIATE(sparse::Half)
FL_INSTANTIATE(sparse::BFloat16)
#undef FL_INSTANTIATE

}  // namespace FL_ISA
}  // namespace fl
