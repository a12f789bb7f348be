// SPDX-License-Identifier: Apache-2.0
//
// sort_scan.h for the CPU: a least-significant-digit radix sort and chunked scans over
// parallel_for. For *_cpu.cpp files, which are compiled once, not for *_simd.cpp. Results do not
// depend on the number of threads: a stable sort has one answer, and sums are taken over chunks of
// a fixed size, then over the chunks in order.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
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

// The bits in which the keys are not all alike.
template <typename Key>
Key differing_bits(const Key* keys, int64_t n) {
  std::vector<Key> found((n + scan_chunk - 1) / scan_chunk, Key(0));
  for_chunks(n, scan_chunk, [&](int64_t c, int64_t begin, int64_t end) {
    Key different = 0;
    for (int64_t i = begin; i < end; ++i) different |= keys[i] ^ keys[0];
    found[c] = different;
  });
  Key different = 0;
  for (Key part : found) different |= part;
  return different;
}

// Digits for the bits that matter. Few keys are not worth large tables; many are worth fewer
// passes over them.
inline std::vector<Digit> split_into_digits(uint64_t different, int64_t n) {
  std::vector<Digit> digits;
  const int widest = n < 4096 ? 8 : 11;
  while (different != 0) {
    const int first = __builtin_ctzll(different);
    const int bits = 64 - __builtin_clzll(different) - first;
    const int passes = (bits + widest - 1) / widest;
    const int width = (bits + passes - 1) / passes;
    digits.push_back({first, width});
    different &= ~(((uint64_t{1} << width) - 1) << first);
  }
  return digits;
}

// Memory in pages of 2 MiB where the system gives them: scattered writes to ordinary pages spend
// most of their time on first touches and address translation (measured: half of a sort of 4 M).
inline void* large_pages(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  constexpr std::size_t page = std::size_t{1} << 21;
  const bool large = bytes >= page;
  if (large) bytes = (bytes + page - 1) / page * page;
  void* memory = large ? std::aligned_alloc(page, bytes) : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

// Pairs as the caller has them, and as they travel between passes: side by side, so that a pair
// moves to one cache line and not two.
template <typename Key, typename Value>
struct Planar {
  Key* keys;
  Value* values;

  auto key(int64_t i) const { return keys[i]; }
  auto value(int64_t i) const { return values[i]; }
  template <typename K, typename V>
  void put(int64_t i, K k, V v) const {
    keys[i] = k;
    values[i] = v;
  }
};

template <typename Key, typename Value>
struct Packed {
  struct Pair {
    Key key;
    Value value;
  };
  struct Free {
    void operator()(Pair* memory) const { std::free(memory); }
  };
  std::unique_ptr<Pair[], Free> pairs;

  explicit Packed(int64_t n) : pairs(static_cast<Pair*>(large_pages(n * sizeof(Pair)))) {}
  Key key(int64_t i) const { return pairs[i].key; }
  Value value(int64_t i) const { return pairs[i].value; }
  void put(int64_t i, Key k, Value v) const { pairs[i] = {k, v}; }
};

// Sorts by one digit: `chunks` equal parts are counted, given places and moved, each by one thread.
template <typename From, typename To>
void sort_by_digit(const From& from, const To& to, int64_t n, int64_t chunks, Digit digit) {
  const std::size_t buckets = std::size_t{1} << digit.bits;
  std::vector<int64_t> table(chunks * buckets, 0);
  const auto each_chunk = [&](const auto& f) {
    parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c)
        f(table.data() + c * buckets, n * c / chunks, n * (c + 1) / chunks);
    });
  };
  each_chunk([&](int64_t* counts, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++counts[digit.of(from.key(i))];
  });
  int64_t next = 0;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket)
    for (int64_t c = 0; c < chunks; ++c) next += std::exchange(table[c * buckets + bucket], next);
  each_chunk([&](int64_t* places, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto key = from.key(i);
      to.put(places[digit.of(key)]++, key, from.value(i));
    }
  });
}

}  // namespace detail

template <typename Key, typename Value>
void sort_pairs(const Key* keys_in, Key* keys_out, const Value* values_in, Value* values_out,
                int64_t n, int begin_bit, int end_bit) {
  static_assert(std::is_unsigned<Key>::value, "sort_pairs: expected unsigned keys");
  if (n <= 0) return;
  constexpr int64_t pairs_worth_a_thread = 1 << 14;
  const int64_t chunks = std::max<int64_t>(1, std::min(thread_count(), n / pairs_worth_a_thread));
  uint64_t different = detail::differing_bits(keys_in, n) >> begin_bit << begin_bit;
  if (end_bit < 64) different &= (uint64_t{1} << end_bit) - 1;
  const std::vector<detail::Digit> digits = detail::split_into_digits(different, n);
  const std::size_t passes = digits.size();

  const detail::Planar<const Key, const Value> in{keys_in, values_in};
  const detail::Planar<Key, Value> out{keys_out, values_out};
  if (passes == 0) {
    std::copy(keys_in, keys_in + n, keys_out);
    std::copy(values_in, values_in + n, values_out);
  } else if (passes == 1) {
    detail::sort_by_digit(in, out, n, chunks, digits[0]);
  } else {
    detail::Packed<Key, Value> here(n), there(passes > 2 ? n : 0);
    detail::sort_by_digit(in, here, n, chunks, digits[0]);
    for (std::size_t pass = 1; pass + 1 < passes; ++pass) {
      detail::sort_by_digit(here, there, n, chunks, digits[pass]);
      std::swap(here, there);
    }
    detail::sort_by_digit(here, out, n, chunks, digits[passes - 1]);
  }
}

}  // namespace cpu
}  // namespace fl
