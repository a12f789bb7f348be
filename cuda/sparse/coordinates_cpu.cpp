// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of coordinate sets: keys are made in chunks of rows, sorted, and read once.
#include "core/registration.h"
#include "sparse/coordinates_entry.h"
#include "sparse/coordinates_keys_cpu.h"

namespace fl::sparse {
namespace {

Rows rows_of(const Tensor& coords, int columns) {
  return {input<int32_t>(coords), coords.size(0), columns};
}

// Where each run of equal keys begins, and the end.
template <int W>
std::vector<int64_t> run_starts(const std::vector<Key<W>>& keys, int64_t n) {
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < n; ++i)
    if (i == 0 || !(keys[i] == keys[i - 1])) starts.push_back(i);
  starts.push_back(n);
  return starts;
}

template <int W>
UniqueTensors unique_by_keys(const Tensor& coords, const Rows& rows, const Layout& layout) {
  const int64_t n = rows.count;
  std::vector<Key<W>> keys = pack_rows(Packer<W>(layout), rows, nullptr, n);
  std::vector<int32_t> order;
  if (sorted_already(keys, n) == Sorted::no) order = sort_keys(keys, n);
  const auto row_at = [&](int64_t i) { return order.empty() ? i : int64_t{order[i]}; };
  const std::vector<int64_t> starts = run_starts(keys, n);
  const int64_t m = static_cast<int64_t>(starts.size()) - 1;
  const Tensor unique = new_empty(coords, {m, rows.columns});
  const Tensor inverse = new_empty(coords, {n}, ScalarType::Long);
  const Tensor first = new_empty(coords, {m}, ScalarType::Long);
  const Tensor counts = new_empty(coords, {m}, ScalarType::Long);
  parallel_for(0, m, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      unpack(layout, keys[starts[j]], output<int32_t>(unique) + j * rows.columns);
      output<int64_t>(first)[j] = row_at(starts[j]);
      output<int64_t>(counts)[j] = starts[j + 1] - starts[j];
      for (int64_t i = starts[j]; i < starts[j + 1]; ++i) output<int64_t>(inverse)[row_at(i)] = j;
    }
  });
  return {unique, inverse, first, counts};
}

// Keys that came lately are left out: neighbours reach the same cells.
template <int W>
class Collector {
 public:
  void add(const Key<W>& key) {
    uint64_t hash = 0;
    for (uint64_t word : key.words) hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
    Key<W>& place = recent_[hash >> (64 - kBits)];
    if (place == key) return;
    place = key;
    keys.push_back(key);
  }

  std::vector<Key<W>> keys;

 private:
  static constexpr int kBits = 11;
  std::vector<Key<W>> recent_ = std::vector<Key<W>>(std::size_t{1} << kBits, Key<W>::last());
};

// The keys of all that a row reaches: sums of what each axis adds. Rows that follow each other
// mostly share their leading columns, and then the sums so far.
template <int W>
class Reacher {
 public:
  Reacher(const Reach& reach, const Layout& layout) : reach_(reach), packer_(layout) {}

  template <int C>
  const std::vector<Key<W>>& reached(const int32_t* row) {
    int c = 0;
    while (begun_ && c < C && row[c] == last_[c]) ++c;
    for (begun_ = true; c < C; ++c) {
      last_[c] = row[c];
      if (c == 0)
        sums_[0].assign(1, packer_.column(0, row[0]) + packer_.constant());
      else
        add_axis(c, row[c]);
    }
    return sums_[C - 1];
  }

 private:
  void add_axis(int c, int32_t value) {
    const Axis& axis = reach_.axes[c - 1];
    std::vector<Key<W>>& sums = sums_[c];
    sums.clear();
    for (int64_t choice = 0; choice < reach_.choices[c - 1]; ++choice) {
      int64_t partner;
      if (!axis.partner(reach_.to_fine, value, choice, &partner)) continue;
      const Key<W> part = packer_.column(c, partner);
      for (const Key<W>& sum : sums_[c - 1]) sums.push_back(sum + part);
    }
  }

  const Reach& reach_;
  Packer<W> packer_;
  bool begun_ = false;
  int32_t last_[kMostColumns] = {};
  std::vector<Key<W>> sums_[kMostColumns];
};

// Distinct keys, ascending.
template <int W>
std::vector<Key<W>> reached_keys(const Rows& rows, const Reach& reach, const Layout& layout) {
  const int64_t chunk = 4 * kRowGrain;
  std::vector<std::vector<Key<W>>> parts((rows.count + chunk - 1) / chunk);
  with_columns(rows.columns, [&](auto columns) {
    cpu::detail::for_chunks(rows.count, chunk, [&](int64_t c, int64_t begin, int64_t end) {
      Reacher<W> reacher(reach, layout);
      Collector<W> collector;
      for (int64_t i = begin; i < end; ++i)
        for (const Key<W>& key : reacher.template reached<columns()>(rows.row(i)))
          collector.add(key);
      parts[c] = std::move(collector.keys);
    });
  });
  std::vector<Key<W>> keys;
  for (const auto& part : parts) keys.insert(keys.end(), part.begin(), part.end());
  const int64_t n = static_cast<int64_t>(keys.size());
  if (sorted_already(keys, n) == Sorted::no) sort_keys(keys, n);
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

template <int W>
Tensor unpack_all(const std::vector<Key<W>>& keys, const Layout& layout, const Tensor& like) {
  const int64_t n = static_cast<int64_t>(keys.size());
  const Tensor rows = new_empty(like, {n, layout.columns});
  parallel_for(0, n, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      unpack(layout, keys[i], output<int32_t>(rows) + i * layout.columns);
  });
  return rows;
}

Tensor reached_rows(const Tensor& coords, const Reach& reach) {
  const Rows rows = rows_of(coords, reach.columns);
  const Bounds bounds = reach.bound(bounds_of(rows));
  if (rows.count == 0 || bounds.empty(rows.columns)) return new_empty(coords, {0, rows.columns});
  const Layout layout = make_layout(rows.columns, bounds);
  return with_words(layout, [&](auto words) {
    return unpack_all(reached_keys<words()>(rows, reach, layout), layout, coords);
  });
}

struct CpuCoordinates {
  static void hash(const int32_t* coords, int64_t n, int columns, int64_t* out, const Tensor&) {
    parallel_for(0, n, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        out[i] = static_cast<int64_t>(hash_row(coords + i * columns, columns));
    });
  }

  static UniqueTensors unique(const Tensor& coords, int columns) {
    const Rows rows = rows_of(coords, columns);
    const Layout layout = make_layout(columns, bounds_of(rows));
    return with_words(layout,
                      [&](auto words) { return unique_by_keys<words()>(coords, rows, layout); });
  }

  static std::vector<Tensor> reached(const Tensor& coords, const std::vector<Link>& links,
                                     const std::optional<Bounds>&) {
    std::vector<Tensor> sets;
    for (const Link& link : links)
      sets.push_back(reached_rows(link.source < 0 ? coords : sets[link.source], link.reach));
    return sets;
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_hash", TORCH_BOX(&sparse_hash<CpuCoordinates>));
  m.impl("sparse_unique", TORCH_BOX(&sparse_unique<CpuCoordinates>));
  m.impl("sparse_reached", TORCH_BOX(&sparse_reached<CpuCoordinates>));
}

}  // namespace fl::sparse
