// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of look-ups, which hash, and of kernel maps, which merge sorted sets.
#include "core/registration.h"
#include "sparse/kernel_map_entry.h"
#include "sparse/kernel_map_merge_cpu.h"
#include "sparse/row_order_cpu.h"

namespace fl::sparse {
namespace {

Rows rows_of(const Tensor& coords) {
  return {input<int32_t>(coords), coords.size(0), static_cast<int>(coords.size(1))};
}

// A set in sorted order: its keys, and the row of each; no rows stand for all in turn.
template <int W>
struct SortedSet {
  std::vector<Key<W>> keys;
  std::vector<int32_t> own_rows;
  const int32_t* rows = nullptr;

  int32_t row(int64_t i) const { return rows == nullptr ? static_cast<int32_t>(i) : rows[i]; }
  int64_t count() const { return static_cast<int64_t>(keys.size()) - 1; }
  bool in_turn() const { return rows == nullptr; }
};

// Positions of the distinct keys, the first of each; none where all are sorted and distinct.
template <int W>
std::vector<int32_t> distinct_order(const Rows& rows, const Layout& layout) {
  std::vector<Key<W>> keys = pack_rows(Packer<W>(layout), rows, nullptr, rows.count);
  const Sorted sorted = sorted_already(keys, rows.count);
  if (sorted == Sorted::strictly) return {};
  std::vector<int32_t> order;
  if (sorted == Sorted::no) order = sort_keys(keys, rows.count);
  std::vector<int32_t> distinct;
  for (int64_t i = 0; i < rows.count; ++i)
    if (i == 0 || !(keys[i] == keys[i - 1]))
      distinct.push_back(order.empty() ? static_cast<int32_t>(i) : order[i]);
  return distinct;
}

// The fields that fine rows, and coarse rows that reach any of them, need under every tap.
Bounds joint_bounds(const Bounds& fine, const Reach& reach) {
  Bounds joint = fine;
  for (int a = 0; a + 1 < reach.columns; ++a) {
    joint.low[a + 1] -= reach.axes[a].extent();
    joint.high[a + 1] += reach.axes[a].extent();
  }
  return joint;
}

// Whether a coarse row reaches into the bounds of the fine set at all.
bool reaches(const Bounds& fine, const Reach& reach, const int32_t* row) {
  if (row[0] < fine.low[0] || row[0] > fine.high[0]) return false;
  for (int a = 0; a + 1 < reach.columns; ++a) {
    const Axis& axis = reach.axes[a];
    const int64_t first = row[a + 1] * axis.stride + axis.origin;
    if (first > fine.high[a + 1] || first + axis.extent() < fine.low[a + 1]) return false;
  }
  return true;
}

// True if it cannot be that some row does not.
bool all_reach(const Bounds& fine, const Reach& reach, const Bounds& coarse) {
  int32_t low[kMostColumns] = {}, high[kMostColumns] = {};
  for (int c = 0; c < reach.columns; ++c) {
    low[c] = static_cast<int32_t>(coarse.low[c]);
    high[c] = static_cast<int32_t>(coarse.high[c]);
  }
  return reaches(fine, reach, low) && reaches(fine, reach, high);
}

template <int W>
SortedSet<W> sorted_coarse(const Rows& coarse, const Bounds& fine, const Reach& reach,
                           const Layout& layout) {
  SortedSet<W> set;
  const bool all = all_reach(fine, reach, bounds_of(coarse));
  if (!all)
    for (int64_t i = 0; i < coarse.count; ++i)
      if (reaches(fine, reach, coarse.row(i))) set.own_rows.push_back(static_cast<int32_t>(i));
  const int64_t n = all ? coarse.count : static_cast<int64_t>(set.own_rows.size());
  set.keys = pack_rows(Packer<W>(layout, reach), coarse, all ? nullptr : set.own_rows.data(), n);
  if (sorted_already(set.keys, n) == Sorted::no) {
    std::vector<int32_t> order = sort_keys(set.keys, n);
    if (!all)
      for (int32_t& row : order) row = set.own_rows[row];
    set.own_rows = std::move(order);
  }
  if (n > 0 && !set.own_rows.empty()) set.rows = set.own_rows.data();
  return set;
}

template <int W>
SortedSet<W> sorted_fine(const Rows& fine, const Tensor& order, const Layout& layout) {
  SortedSet<W> set;
  const int64_t n = order.size(0) > 0 ? order.size(0) : fine.count;
  if (order.size(0) > 0) set.rows = input<int32_t>(order);
  set.keys = pack_rows(Packer<W>(layout), fine, set.rows, n);
  return set;
}

Bounds read_bounds(const Tensor& bounds, int columns) {
  Bounds read;
  std::copy_n(input<int64_t>(bounds), columns, read.low);
  std::copy_n(input<int64_t>(bounds) + columns, columns, read.high);
  return read;
}

void check_index(const MapInput& in, const char* op) {
  check_dtype(in.order, ScalarType::Int, op, "order");
  check_shape(in.order, {-1}, op, "order");
  check_dtype(in.bounds, ScalarType::Long, op, "bounds");
  check_shape(in.bounds, {2, in.columns}, op, "bounds");
  const int64_t rows = in.coords.size(0);
  for (int64_t i = 0; i < in.order.size(0); ++i)
    STD_TORCH_CHECK(
        static_cast<uint64_t>(input<int32_t>(in.order)[i]) < static_cast<uint64_t>(rows), op,
        ": order: expected rows below ", rows, ", got ", input<int32_t>(in.order)[i]);
}

// Both sets in sorted order and their matches. A symmetric map is one set, shifted; it is searched
// for the taps before its centre, and what follows mirrors them. Not so where rows are repeated: a
// repeated row has partners, but is nobody's.
template <int W>
class SortedMap {
 public:
  SortedMap(const MapInput& in, const Bounds& bounds, const Layout& layout)
      : taps_(tap_count(in.reach)),
        fine_(sorted_fine<W>(rows_of(in.coords), in.order, layout)),
        mirrored_(in.symmetric && fine_.count() == in.coarse.size(0)),
        coarse_(mirrored_ ? SortedSet<W>{}
                          : sorted_coarse<W>(rows_of(in.coarse), bounds, in.reach, layout)),
        matches_(coarse().keys, fine_.keys,
                 lines_of(in.reach, layout, mirrored_ ? origin_key<W>(in.reach, layout) : Key<W>{},
                          mirrored_ ? taps_ / 2 : taps_)) {}

  int64_t taps() const { return taps_; }

  int64_t count(int64_t tap) const {
    if (!mirrored_ || tap < taps_ / 2) return matches_.count(tap);
    return tap == taps_ / 2 ? fine_.count() : matches_.count(taps_ - 1 - tap);
  }

  // f(fine row, coarse row) for each pair of a tap, in the order of coarse keys.
  template <typename F>
  void for_each(int64_t tap, const F& f) const {
    if (!mirrored_ || tap < taps_ / 2)
      matches_.for_each(tap, [&](Match m) { f(fine_.row(m.fine), coarse().row(m.coarse)); });
    else if (tap > taps_ / 2)
      matches_.for_each(taps_ - 1 - tap,
                        [&](Match m) { f(coarse().row(m.coarse), fine_.row(m.fine)); });
    else
      for (int64_t i = 0; i < fine_.count(); ++i)
        f(static_cast<int32_t>(i), static_cast<int32_t>(i));
  }

  // Whether for_each gives coarse rows in ascending order.
  bool in_turn() const { return coarse().in_turn(); }

 private:
  const SortedSet<W>& coarse() const { return mirrored_ ? fine_ : coarse_; }

  int64_t taps_;
  SortedSet<W> fine_;
  bool mirrored_;
  SortedSet<W> coarse_;
  Matches matches_;
};

// Calls f(SortedMap).
template <typename F>
auto with_map(const MapInput& in, const char* op, const F& f) {
  check_index(in, op);
  const Bounds bounds = read_bounds(in.bounds, in.columns);
  const Layout layout = make_layout(in.columns, joint_bounds(bounds, in.reach));
  return with_words(layout, [&](auto words) { return f(SortedMap<words()>(in, bounds, layout)); });
}

template <int W>
PairTensors pairs_of(const SortedMap<W>& map, const Tensor& like, int64_t n_coarse) {
  const Tensor starts = new_empty(like, {map.taps() + 1}, ScalarType::Long);
  int64_t* start = output<int64_t>(starts);
  start[0] = 0;
  for (int64_t tap = 0; tap < map.taps(); ++tap) start[tap + 1] = start[tap] + map.count(tap);
  const Tensor fine = new_empty(like, {start[map.taps()]});
  const Tensor coarse = new_empty(like, {start[map.taps()]});
  std::vector<RowOrder> orders(thread_count(), RowOrder(n_coarse));
  parallel_dynamic(map.taps(), [&](int64_t tap, int64_t worker) {
    int32_t* fine_rows = output<int32_t>(fine) + start[tap];
    int32_t* coarse_rows = output<int32_t>(coarse) + start[tap];
    int64_t next = 0;
    map.for_each(tap, [&](int32_t fine_row, int32_t coarse_row) {
      fine_rows[next] = fine_row;
      coarse_rows[next++] = coarse_row;
    });
    if (!map.in_turn()) orders[worker].sort(coarse_rows, fine_rows, next);
  });
  return {fine, coarse, starts};
}

void insert(uint64_t* slots, const SlotTable& table, int64_t i) {
  const int32_t* row = table.coords + i * table.columns;
  const uint64_t hash = hash_row(row, table.columns);
  uint64_t place = hash & table.mask;
  while (slots[place] != 0 && !table.holds(slots[place], hash, row))
    place = (place + 1) & table.mask;
  if (slots[place] == 0) slots[place] = make_slot(hash, i);
}

struct CpuMaps {
  static IndexTensors index(const Tensor& coords, int columns) {
    const Rows rows = rows_of(coords);
    const Bounds bounds = bounds_of(rows);
    const Layout layout = make_layout(columns, bounds);
    const std::vector<int32_t> order =
        with_words(layout, [&](auto words) { return distinct_order<words()>(rows, layout); });
    const Tensor order_out = new_empty(coords, {static_cast<int64_t>(order.size())});
    std::copy(order.begin(), order.end(), output<int32_t>(order_out));
    const Tensor bounds_out = new_empty(coords, {2, columns}, ScalarType::Long);
    std::copy_n(bounds.low, columns, output<int64_t>(bounds_out));
    std::copy_n(bounds.high, columns, output<int64_t>(bounds_out) + columns);
    return {new_empty(coords, {0}, ScalarType::Long), order_out, bounds_out};
  }

  static Tensor slots(const Tensor& coords, int columns) {
    const Tensor slots = new_zeros(coords, {slot_count(coords.size(0))}, ScalarType::Long);
    const SlotTable table = slot_table(slots, coords, columns);
    for (int64_t i = 0; i < table.count; ++i) insert(output<uint64_t>(slots), table, i);
    return slots;
  }

  static Survey survey(const SlotTable& table, const Tensor&) {
    Survey survey;
    survey.bounds = bounds_of({table.coords, table.count, table.columns});
    for (int64_t i = 0; i < table.count; ++i)
      survey.repeated += table.find(table.coords + i * table.columns) != i;
    return survey;
  }

  static void lookup(const SlotTable& table, const int32_t* queries, int64_t n, int32_t* rows,
                     const Tensor&) {
    parallel_for(0, n, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) rows[i] = table.find(queries + i * table.columns);
    });
  }

  static void table(const MapInput& in, int32_t* out) {
    with_map(in, "sparse_kernel_table", [&](const auto& map) {
      const int64_t n = in.coarse.size(0);
      parallel_dynamic(map.taps(), [&](int64_t tap, int64_t) {
        std::fill_n(out + tap * n, n, -1);
        map.for_each(tap, [&](int32_t fine, int32_t coarse) { out[tap * n + coarse] = fine; });
      });
    });
  }

  static PairTensors pairs(const MapInput& in) {
    return with_map(in, "sparse_kernel_pairs",
                    [&](const auto& map) { return pairs_of(map, in.coords, in.coarse.size(0)); });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_index", TORCH_BOX(&sparse_index<CpuMaps>));
  m.impl("sparse_slots", TORCH_BOX(&sparse_slots<CpuMaps>));
  m.impl("sparse_survey", TORCH_BOX(&sparse_survey<CpuMaps>));
  m.impl("sparse_lookup", TORCH_BOX(&sparse_lookup<CpuMaps>));
  m.impl("sparse_kernel_table", TORCH_BOX(&sparse_kernel_table<CpuMaps>));
  m.impl("sparse_kernel_pairs", TORCH_BOX(&sparse_kernel_pairs<CpuMaps>));
}

}  // namespace fl::sparse
