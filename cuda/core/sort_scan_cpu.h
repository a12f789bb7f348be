// SPDX-License-Identifier: Apache-2.0
//
// sort_scan.h for the CPU: a least-significant-digit radix sort and chunked scans over
// parallel_for. Results do not depend on the number of threads: a stable sort has one answer, and
// sums are taken over chunks of a fixed size, then over the chunks in order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/parallel.h"

namespace fl {
namespace cpu {
namespace detail {

constexpr int64_t scan_chunk = 1 << 15;

// f(chunk, begin, end) for each fixed-size chunk of [0, n), in parallel.
template <typename F>
void for_chunks(int64_t n, int64_t chunk, const F& f) {
  parallel_for(0, (n + chunk - 1) / chunk, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) f(c, c * chunk, std::min(n, (c + 1) * chunk));
  });
}

// offsets[c]: the sum of all chunks before c; the last entry: the sum of all.
template <typename Out, typename In>
std::vector<Out> chunk_offsets(const In* in, int64_t n) {
  std::vector<Out> offsets((n + scan_chunk - 1) / scan_chunk + 1, Out(0));
  for_chunks(n, scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    Out sum(0);
    for (int64_t i = begin; i < end; ++i) sum += static_cast<Out>(in[i]);
    offsets[c + 1] = sum;
  });
  for (std::size_t c = 1; c < offsets.size(); ++c) offsets[c] += offsets[c - 1];
  return offsets;
}

}  // namespace detail

template <typename In, typename Out>
void exclusive_scan(const In* in, Out* out, int64_t n) {
  const std::vector<Out> offsets = detail::chunk_offsets<Out>(in, n);
  detail::for_chunks(n, detail::scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    Out sum = offsets[c];
    for (int64_t i = begin; i < end; ++i) {
      const Out value = static_cast<Out>(in[i]);
      out[i] = sum;
      sum += value;
    }
  });
}

template <typename In, typename Out>
void inclusive_scan(const In* in, Out* out, int64_t n) {
  const std::vector<Out> offsets = detail::chunk_offsets<Out>(in, n);
  detail::for_chunks(n, detail::scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    Out sum = offsets[c];
    for (int64_t i = begin; i < end; ++i) out[i] = sum += static_cast<Out>(in[i]);
  });
}

template <typename Out, typename In>
Out reduce_sum(const In* in, int64_t n) {
  return detail::chunk_offsets<Out>(in, n).back();
}

// Returns how many flags are set.
template <typename Index>
int64_t select_indices(const uint8_t* flags, Index* indices, int64_t n) {
  const int64_t chunks = (n + detail::scan_chunk - 1) / detail::scan_chunk;
  std::vector<int64_t> offsets(chunks + 1, 0);
  detail::for_chunks(n, detail::scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    offsets[c + 1] = std::count_if(flags + begin, flags + end, [](uint8_t f) { return f != 0; });
  });
  for (int64_t c = 0; c < chunks; ++c) offsets[c + 1] += offsets[c];
  detail::for_chunks(n, detail::scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    int64_t next = offsets[c];
    for (int64_t i = begin; i < end; ++i)
      if (flags[i] != 0) indices[next++] = static_cast<Index>(i);
  });
  return offsets[chunks];
}

namespace detail {

// One digit of the key: `bits` wide, `shift` from the right.
struct Digit {
  int shift, bits;

  template <typename Key>
  std::size_t of(Key key) const {
    return static_cast<std::size_t>(key >> shift) & ((std::size_t{1} << bits) - 1);
  }
};

// Few elements are not worth large tables; many are worth fewer passes over them.
inline std::vector<Digit> split_into_digits(int64_t n, int begin_bit, int end_bit) {
  const int widest = n < 4096 ? 8 : 11;
  const int bits = end_bit - begin_bit;
  const int passes = (bits + widest - 1) / widest;
  std::vector<Digit> digits;
  for (int pass = 0, shift = begin_bit; pass < passes; ++pass) {
    const int width = (end_bit - shift + passes - pass - 1) / (passes - pass);
    digits.push_back({shift, width});
    shift += width;
  }
  return digits;
}

template <typename Key, typename Value>
struct Pairs {
  Key* keys;
  Value* values;
};

// A digit sort of n pairs in `chunks` equal parts, each part's order kept.
template <typename Key>
class Histograms {
 public:
  Histograms(int64_t n, int64_t chunks, Digit digit)
      : n_(n), chunks_(chunks), digit_(digit), buckets_(std::size_t{1} << digit.bits),
        counts_(chunks * buckets_) {}

  int64_t begin(int64_t chunk) const { return n_ * chunk / chunks_; }
  int64_t* of(int64_t chunk) { return counts_.data() + chunk * buckets_; }

  void count(const Key* keys) {
    parallel_for(0, chunks_, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        int64_t* counts = of(c);
        std::fill(counts, counts + buckets_, int64_t{0});
        for (int64_t i = begin(c), end = begin(c + 1); i < end; ++i) ++counts[digit_.of(keys[i])];
      }
    });
  }

  // Turns counts into the place of each chunk's first pair of each bucket. False: one bucket holds
  // all pairs, so that this digit leaves them in order.
  bool place() {
    int64_t next = 0;
    for (std::size_t bucket = 0; bucket < buckets_; ++bucket) {
      const int64_t bucket_begin = next;
      for (int64_t c = 0; c < chunks_; ++c) next += std::exchange(of(c)[bucket], next);
      if (next - bucket_begin == n_) return false;
    }
    return true;
  }

  template <typename Value>
  void scatter(Pairs<const Key, const Value> from, Pairs<Key, Value> to) {
    parallel_for(0, chunks_, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        int64_t* next = of(c);
        for (int64_t i = begin(c), end = begin(c + 1); i < end; ++i) {
          const int64_t place = next[digit_.of(from.keys[i])]++;
          to.keys[place] = from.keys[i];
          to.values[place] = from.values[i];
        }
      }
    });
  }

 private:
  int64_t n_, chunks_;
  Digit digit_;
  std::size_t buckets_;
  std::vector<int64_t> counts_;
};

}  // namespace detail

template <typename Key, typename Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                int64_t n, int begin_bit, int end_bit) {
  static_assert(std::is_unsigned<Key>::value, "sort_pairs: expected unsigned keys");
  if (n <= 0) return;
  constexpr int64_t pairs_worth_a_thread = 1 << 14;
  const int64_t chunks =
      std::max<int64_t>(1, std::min(thread_count(), n / pairs_worth_a_thread));
  std::unique_ptr<Key[]> spare_keys;
  std::unique_ptr<Value[]> spare_values;
  detail::Pairs<const Key, const Value> from{keys_in, values_in};
  for (const detail::Digit digit : detail::split_into_digits(n, begin_bit, end_bit)) {
    detail::Histograms<Key> histograms(n, chunks, digit);
    histograms.count(from.keys);
    if (!histograms.place()) continue;
    detail::Pairs<Key, Value> to{keys_out, values_out};
    if (from.keys == keys_out) {
      if (!spare_keys) {
        spare_keys.reset(new Key[n]);
        spare_values.reset(new Value[n]);
      }
      to = {spare_keys.get(), spare_values.get()};
    }
    histograms.scatter(from, to);
    from = {to.keys, to.values};
  }
  if (from.keys != keys_out) {
    std::copy(from.keys, from.keys + n, keys_out);
    std::copy(from.values, from.values + n, values_out);
  }
}

}  // namespace cpu
}  // namespace fl
