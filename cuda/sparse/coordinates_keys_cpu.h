// SPDX-License-Identifier: Apache-2.0
//
// Keys on the CPU: rows packed into as few 64-bit words as the bounds ask for, one for nearly every
// set, two where 64 bits are too few, and five for any coordinates there are. A key is an affine
// function of its row, modulo 2^64: a stride is a factor, and a tap of a kernel an addend.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/check.h"
#include "core/sort_scan_cpu.h"
#include "sparse/coordinates.h"

namespace fl::sparse {

constexpr int64_t kRowGrain = 4096;
constexpr int kMostWords = kMostColumns;

struct Rows {
  const int32_t* data;
  int64_t count;
  int columns;

  const int32_t* row(int64_t i) const { return data + i * columns; }
};

namespace detail {

template <int C>
void widen(const Rows& rows, int64_t begin, int64_t end, int32_t* low, int32_t* high) {
  int32_t least[C], most[C];
  for (int c = 0; c < C; ++c) least[c] = most[c] = rows.row(begin)[c];
  for (int64_t i = begin; i < end; ++i)
    for (int c = 0; c < C; ++c) {
      const int32_t value = rows.data[i * C + c];
      least[c] = value < least[c] ? value : least[c];
      most[c] = value > most[c] ? value : most[c];
    }
  for (int c = 0; c < C; ++c) low[c] = least[c], high[c] = most[c];
}

}  // namespace detail

// Calls f(integral_constant C) with the number of columns.
template <typename F>
auto with_columns(int columns, const F& f) {
  switch (columns) {
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    default:
      return f(std::integral_constant<int, 5>{});
  }
}

inline Bounds bounds_of(const Rows& rows) {
  Bounds bounds;
  if (rows.count == 0) return bounds;
  const int64_t chunks = (rows.count + kRowGrain - 1) / kRowGrain;
  std::vector<std::array<int32_t, 2 * kMostColumns>> parts(chunks);
  with_columns(rows.columns, [&](auto columns) {
    cpu::detail::for_chunks(rows.count, kRowGrain, [&](int64_t c, int64_t begin, int64_t end) {
      detail::widen<columns()>(rows, begin, end, parts[c].data(), parts[c].data() + kMostColumns);
    });
  });
  for (int c = 0; c < rows.columns; ++c) {
    bounds.low[c] = parts[0][c];
    bounds.high[c] = parts[0][kMostColumns + c];
    for (const auto& part : parts) {
      bounds.low[c] = std::min<int64_t>(bounds.low[c], part[c]);
      bounds.high[c] = std::max<int64_t>(bounds.high[c], part[kMostColumns + c]);
    }
  }
  return bounds;
}

template <int W>
struct Key {
  uint64_t words[W];

  static Key last() {
    Key key;
    for (uint64_t& word : key.words) word = ~uint64_t{0};
    return key;
  }
  friend bool operator==(const Key& a, const Key& b) {
    for (int w = 0; w < W; ++w)
      if (a.words[w] != b.words[w]) return false;
    return true;
  }
  friend bool operator<(const Key& a, const Key& b) {
    for (int w = W - 1; w > 0; --w)
      if (a.words[w] != b.words[w]) return a.words[w] < b.words[w];
    return a.words[0] < b.words[0];
  }
  friend Key operator+(const Key& a, const Key& b) {
    Key sum;
    for (int w = 0; w < W; ++w) sum.words[w] = a.words[w] + b.words[w];
    return sum;
  }
  // How far `b` lies behind on the last axis; all ones where they differ in others.
  friend uint64_t distance(const Key& a, const Key& b) {
    for (int w = W - 1; w > 0; --w)
      if (a.words[w] != b.words[w]) return ~uint64_t{0};
    return a.words[0] - b.words[0];
  }
};

// Calls f(integral_constant W) with enough words for the layout.
template <typename F>
auto with_words(const Layout& layout, const F& f) {
  if (layout.words == 1) return f(std::integral_constant<int, 1>{});
  if (layout.words == 2) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, kMostWords>{});
}

// key(row) of column values row[c] * stride[c] + base[c].
template <int W>
class Packer {
 public:
  explicit Packer(const Layout& layout) {
    for (int c = 0; c < layout.columns; ++c) set(layout, c, 1, 0);
  }
  // Rows of the coarse set, under the kernel's first tap.
  Packer(const Layout& layout, const Reach& reach) {
    set(layout, 0, 1, 0);
    for (int a = 0; a + 1 < layout.columns; ++a)
      set(layout, a + 1, reach.axes[a].stride, reach.axes[a].origin);
  }

  template <int C>
  Key<W> pack(const int32_t* row) const {
    Key<W> key;
    for (int w = 0; w < W; ++w) {
      uint64_t word = constant_[w];
      for (int c = 0; c < C; ++c) word += static_cast<uint64_t>(int64_t{row[c]}) * factor_[w][c];
      key.words[w] = word;
    }
    return key;
  }

  // What a value of one column adds to the key that an empty row would have.
  Key<W> column(int c, int64_t value) const {
    Key<W> key;
    for (int w = 0; w < W; ++w) key.words[w] = static_cast<uint64_t>(value) * factor_[w][c];
    return key;
  }

  Key<W> constant() const {
    Key<W> key;
    std::copy_n(constant_, W, key.words);
    return key;
  }

 private:
  void set(const Layout& layout, int c, int64_t stride, int64_t base) {
    const uint64_t unit = uint64_t{1} << layout.shift[c];
    factor_[layout.word[c]][c] = static_cast<uint64_t>(stride) * unit;
    constant_[layout.word[c]] += static_cast<uint64_t>(base - layout.low[c]) * unit;
  }

  uint64_t factor_[W][kMostColumns] = {};
  uint64_t constant_[W] = {};
};

template <int W>
void unpack(const Layout& layout, const Key<W>& key, int32_t* row) {
  for (int c = 0; c < layout.columns; ++c) {
    const uint64_t mask = (uint64_t{1} << layout.bits[c]) - 1;
    const uint64_t field = key.words[layout.word[c]] >> layout.shift[c] & mask;
    row[c] = static_cast<int32_t>(static_cast<int64_t>(field) + layout.low[c]);
  }
}

// Rows numbered by `order`, or all in turn where that is null.
template <int W>
std::vector<Key<W>> pack_rows(const Packer<W>& packer, const Rows& rows, const int32_t* order,
                              int64_t count) {
  std::vector<Key<W>> keys(count + 1);
  keys[count] = Key<W>::last();
  with_columns(rows.columns, [&](auto columns) {
    parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
      if (order == nullptr)
        for (int64_t i = begin; i < end; ++i)
          keys[i] = packer.template pack<columns()>(rows.data + i * columns());
      else
        for (int64_t i = begin; i < end; ++i)
          keys[i] = packer.template pack<columns()>(rows.data + order[i] * int64_t{columns()});
    });
  });
  return keys;
}

enum class Sorted { no, yes, strictly };

// Of n keys; most sets come sorted, and are then left as they are.
template <int W>
Sorted sorted_already(const std::vector<Key<W>>& keys, int64_t n) {
  bool strictly = true;
  for (int64_t i = 1; i < n; ++i) {
    if (keys[i - 1] < keys[i]) continue;
    if (keys[i] < keys[i - 1]) return Sorted::no;
    strictly = false;
  }
  return strictly ? Sorted::strictly : Sorted::yes;
}

// Sorts the first n keys; returns where each of them stood, equal ones in turn.
template <int W>
std::vector<int32_t> sort_keys(std::vector<Key<W>>& keys, int64_t n) {
  STD_TORCH_CHECK(n < int64_t{1} << 31,
                  "sparse coordinates: expected fewer than 2^31 candidates, got ", n);
  std::vector<int32_t> order(n), next(n);
  std::vector<uint64_t> words(n), sorted(n);
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
  for (int w = 0; w < W; ++w) {
    for (int64_t i = 0; i < n; ++i) words[i] = keys[order[i]].words[w];
    cpu::sort_pairs(words.data(), sorted.data(), order.data(), next.data(), n, 0, 64);
    std::swap(order, next);
  }
  if (W == 1) {
    for (int64_t i = 0; i < n; ++i) keys[i].words[0] = sorted[i];
    return order;
  }
  std::vector<Key<W>> moved(keys);
  for (int64_t i = 0; i < n; ++i) moved[i] = keys[order[i]];
  std::swap(keys, moved);
  return order;
}

}  // namespace fl::sparse
