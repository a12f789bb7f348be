// SPDX-License-Identifier: Apache-2.0
//
// Segments on the CPU: row after row into sums that stay in the first cache.
#include "sparse/segment_simd.h"

#include "sparse/rows_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using sparse::PickedArgs;
using sparse::Range;
using sparse::ReduceArgs;
using sparse::Reduced;
using sparse::Reduction;

template <typename T>
FL_SIMD void sum_places(const ReduceArgs<T>& a, Range range, Reduced<T>& r) {
  for (int64_t place = range.begin; place < range.end; ++place) {
    const int32_t item = a.segments.order[place];
    const int64_t row = a.row_of(item);
    if (row < 0) continue;
    const T* values = a.features + row * a.channels;
    const bool first = r.count++ == 0;
    if (a.weights == nullptr)
      first ? copy_row(r.sums, values, a.channels) : add_row(r.sums, values, a.channels);
    else
      first ? scale_row(r.sums, a.weights[item], values, a.channels)
            : add_scaled_row(r.sums, a.weights[item], values, a.channels);
  }
}

template <bool kGreater, typename T>
FL_SIMD void pick_places(const ReduceArgs<T>& a, Range range, Reduced<T>& r) {
  for (int64_t place = range.begin; place < range.end; ++place) {
    const int64_t row = a.row_of(a.segments.order[place]);
    if (row < 0) continue;
    const T* values = a.features + row * a.channels;
    if (r.count++ == 0) {
      copy_row(r.sums, values, a.channels);
      fill_row(r.places, static_cast<int32_t>(row), a.channels);
    } else {
      keep_row<kGreater>(r.sums, r.places, values, static_cast<int32_t>(row), a.channels);
    }
  }
}

template <bool kGreater, typename T>
FL_SIMD void pick_part(const ReduceArgs<T>& a, const Reduced<T>& part, Reduced<T>& r) {
  for (int64_t c = 0; c < a.channels; ++c)
    keep_row<kGreater>(r.sums + c, r.places + c, part.sums + c, part.places[c], 1);
}

template <typename T>
FL_SIMD void reduce_places(const ReduceArgs<T>& a, Range range, Reduced<T>& r) {
  if (a.reduction == Reduction::max)
    pick_places<true>(a, range, r);
  else if (a.reduction == Reduction::min)
    pick_places<false>(a, range, r);
  else
    sum_places(a, range, r);
}

template <typename T>
FL_SIMD void store(const ReduceArgs<T>& a, int64_t segment, const Reduced<T>& r) {
  T* out = a.out + segment * a.channels;
  if (r.count == 0)
    fill_row(out, T{}, a.channels);
  else if (a.reduction == Reduction::mean && r.count > 1)
    store_mean(out, r.sums, static_cast<Sum<T>>(r.count), a.channels);
  else
    store_row(out, r.sums, a.channels);
  if (!a.picks()) return;
  int32_t* picked = a.picked + segment * a.channels;
  if (r.count == 0)
    fill_row(picked, int32_t{-1}, a.channels);
  else
    copy_places(picked, r.places, a.channels);
}

}  // namespace

template <typename T>
bool reduce_short(const ReduceArgs<T>& a, Reduced<T> scratch, int64_t begin, int64_t end) {
  bool any_long = false;
  for (int64_t segment = begin; segment < end; ++segment) {
    const Range range = a.segments.range(segment);
    if (a.segments.is_long(range)) {
      any_long = true;
      continue;
    }
    scratch.count = 0;
    reduce_places(a, range, scratch);
    store(a, segment, scratch);
  }
  return any_long;
}

template <typename T>
int64_t reduce_part(const ReduceArgs<T>& a, Range range, Reduced<T> part) {
  reduce_places(a, range, part);
  return part.count;
}

template <typename T>
void join_part(const ReduceArgs<T>& a, const Reduced<T>& next, Reduced<T>& before) {
  if (next.count == 0) return;
  if (before.count == 0) {
    copy_row(before.sums, next.sums, a.channels);
    if (a.picks()) copy_places(before.places, next.places, a.channels);
  } else if (a.reduction == Reduction::max) {
    pick_part<true>(a, next, before);
  } else if (a.reduction == Reduction::min) {
    pick_part<false>(a, next, before);
  } else {
    add_row(before.sums, next.sums, a.channels);
  }
  before.count += next.count;
}

template <typename T>
void store_reduced(const ReduceArgs<T>& a, int64_t segment, const Reduced<T>& r) {
  store(a, segment, r);
}

template <typename T>
void put_picked(const PickedArgs<T>& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    for (int64_t c = 0; c < a.channels; ++c) a.put(i, c);
}

#define FL_INSTANTIATE(T)                                                         \
  template bool reduce_short(const ReduceArgs<T>&, Reduced<T>, int64_t, int64_t); \
  template int64_t reduce_part(const ReduceArgs<T>&, Range, Reduced<T>);          \
  template void join_part(const ReduceArgs<T>&, const Reduced<T>&, Reduced<T>&);  \
  template void store_reduced(const ReduceArgs<T>&, int64_t, const Reduced<T>&);  \
  template void put_picked(const PickedArgs<T>&, int64_t, int64_t);
FL_INSTANTIATE(float)
FL_INSTANTIATE(double)
FL_INSTANTIATE(sparse::Half)
FL_INSTANTIATE(sparse::BFloat16)
#undef FL_INSTANTIATE

}  // namespace FL_ISA
}  // namespace fl
