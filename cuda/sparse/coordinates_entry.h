// SPDX-License-Identifier: Apache-2.0
//
// Coordinate sets as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "sparse/coordinates.h"

namespace fl::sparse {

using Numbers = std::vector<int64_t>;

// Columns of the coordinates.
inline int check_coords(const Tensor& coords, const char* op, const char* argument) {
  check_dtype(coords, ScalarType::Int, op, argument);
  STD_TORCH_CHECK(coords.dim() == 2 && coords.size(1) >= 2 && coords.size(1) <= kMostColumns, op,
                  ": ", argument, ": expected shape [*, 2] to [*, 5], got ", shape_text(coords));
  STD_TORCH_CHECK(coords.size(0) <= std::numeric_limits<int32_t>::max(), op, ": ", argument,
                  ": expected fewer than 2^31 rows, got ", coords.size(0));
  return static_cast<int>(coords.size(1));
}

// Four runs of numbers, one an axis: kernel size, stride, dilation, origin. Small enough that no
// sum of theirs with a coordinate leaves 64 bits.
inline Reach make_reach(const int64_t* taps, int columns, const char* op) {
  constexpr int64_t most = int64_t{1} << 31;
  const int n = columns - 1;
  Reach reach{};
  reach.columns = columns;
  reach.per_row = 1;
  int64_t count = 1;
  for (int a = 0; a < n; ++a) {
    const int64_t size = taps[a], stride = taps[n + a], dilation = taps[2 * n + a];
    const int64_t origin = taps[3 * n + a];
    STD_TORCH_CHECK(size >= 1 && size < most && (count *= size) < most, op,
                    ": taps: expected kernel sizes of 1 or more and fewer than 2^31 taps, got ",
                    size, " on axis ", a);
    STD_TORCH_CHECK(stride >= 1 && stride < most && dilation >= 1 && dilation < most, op,
                    ": taps: expected strides and dilations in [1, 2^31), got ", stride, " and ",
                    dilation, " on axis ", a);
    STD_TORCH_CHECK(origin > -4 * most && origin < 4 * most, op,
                    ": taps: expected origins in (-2^33, 2^33), got ", origin, " on axis ", a);
    STD_TORCH_CHECK((size - 1) * dilation < 8 * most, op,
                    ": taps: expected kernels that extend over less than 2^34, got ",
                    (size - 1) * dilation, " on axis ", a);
    reach.axes[a] = {size,
                     stride,
                     dilation,
                     origin,
                     std::numeric_limits<int32_t>::min(),
                     most,
                     63 - __builtin_clzll(static_cast<uint64_t>(stride)),
                     size <= (size - 1) * dilation / stride};
    reach.choices[a] = 1;
  }
  return reach;
}

inline Reach check_taps(const Numbers& taps, int columns, const char* op) {
  STD_TORCH_CHECK(static_cast<int>(taps.size()) == 4 * (columns - 1), op, ": taps: expected ",
                  4 * (columns - 1), " numbers, got ", taps.size());
  return make_reach(taps.data(), columns, op);
}

inline int64_t tap_count(const Reach& reach) {
  int64_t count = 1;
  for (int a = 0; a < reach.columns - 1; ++a) count *= reach.axes[a].taps;
  return count;
}

// How one set of a tree of them is reached, and from which: that of an earlier link, or from the
// coordinates that were given, -1.
struct Link {
  Reach reach;
  int source;
};

// `sources` counts from the coordinates that were given, 0.
inline std::vector<Link> check_links(const Numbers& taps, const Numbers& sources,
                                     const Numbers& low, const Numbers& high, bool to_fine,
                                     int columns, const char* op) {
  const std::size_t axes = columns - 1, levels = sources.size();
  STD_TORCH_CHECK(taps.size() == 4 * axes * levels && low.size() == axes * levels &&
                      high.size() == axes * levels,
                  op, ": taps, low, high: expected 4, 1 and 1 numbers an axis for ", levels,
                  " sets of ", axes, " axes, got ", taps.size(), ", ", low.size(), " and ",
                  high.size());
  std::vector<Link> links;
  for (std::size_t level = 0; level < levels; ++level) {
    STD_TORCH_CHECK(sources[level] >= 0 && sources[level] <= static_cast<int64_t>(level), op,
                    ": sources: expected numbers of earlier sets, got ", sources[level],
                    " for set ", level + 1);
    Reach reach = make_reach(taps.data() + 4 * axes * level, columns, op);
    reach.to_fine = to_fine;
    for (std::size_t a = 0; a < axes; ++a) {
      Axis& axis = reach.axes[a];
      axis.low = std::max(axis.low, low[axes * level + a]);
      axis.high = std::min(axis.high, high[axes * level + a]);
      reach.choices[a] = static_cast<uint32_t>(axis.choices(to_fine));
      reach.per_row *= reach.choices[a];
    }
    links.push_back({reach, static_cast<int>(sources[level]) - 1});
  }
  return links;
}

// Lowest and highest of each column, as somebody knows them; no numbers if nobody does.
inline std::optional<Bounds> check_bounds(const Numbers& bounds, int columns, const char* op) {
  if (bounds.empty()) return std::nullopt;
  STD_TORCH_CHECK(static_cast<int>(bounds.size()) == 2 * columns, op, ": bounds: expected ",
                  2 * columns, " numbers or none, got ", bounds.size());
  Bounds known;
  for (int c = 0; c < columns; ++c) {
    known.low[c] = bounds[c];
    known.high[c] = bounds[columns + c];
    STD_TORCH_CHECK(known.low[c] >= std::numeric_limits<int32_t>::min() &&
                        known.high[c] <= std::numeric_limits<int32_t>::max(),
                    op, ": bounds: expected 32-bit numbers, got ", known.low[c], " to ",
                    known.high[c], " in column ", c);
  }
  return known;
}

template <typename Backend>
Tensor sparse_hash(Tensor coords) {
  const int columns = check_coords(coords, "sparse_hash", "coords");
  make_dense(coords);
  const Tensor hashes = new_empty(coords, {coords.size(0)}, ScalarType::Long);
  Backend::hash(input<int32_t>(coords), coords.size(0), columns, output<int64_t>(hashes), coords);
  return hashes;
}

// coords, inverse, first, counts.
using UniqueTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename Backend>
UniqueTensors sparse_unique(Tensor coords) {
  const int columns = check_coords(coords, "sparse_unique", "coords");
  make_dense(coords);
  return Backend::unique(coords, columns);
}

template <typename Backend>
std::vector<Tensor> sparse_reached(Tensor coords, Numbers taps, Numbers sources, bool to_fine,
                                   Numbers low, Numbers high, Numbers bounds) {
  const char* op = "sparse_reached";
  const int columns = check_coords(coords, op, "coords");
  const std::vector<Link> links = check_links(taps, sources, low, high, to_fine, columns, op);
  make_dense(coords);
  return Backend::reached(coords, links, check_bounds(bounds, columns, op));
}

}  // namespace fl::sparse
