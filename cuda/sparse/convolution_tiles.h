// SPDX-License-Identifier: Apache-2.0
//
// The kernels of convolution: a few gathered rows by a tile of two vectors of output channels, with
// the sums in registers. Each sum is made in one order, whatever rows its neighbours are: over the
// input channels from zero, then added to the sum of the taps before. Included by those that
// compile it for an instruction set: convolution_simd.cpp, and convolution_bf16_simd.cpp.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/portable.h"
#include "core/simd.h"
#include "sparse/convolution_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using sparse::BFloat16Pair;
using sparse::BlockArgs;
using sparse::Channels;

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kBytes = 64, kRows = 8;  // 16 sums and two vectors of weights in 32 registers
#elif defined(__AVX2__)
constexpr int kBytes = 32, kRows = 6;  // 12 sums, two of weights and one of features in 16
#else
constexpr int kBytes = 16, kRows = 6;
#endif
constexpr int kVectors = 2;     // of a tile
constexpr int kChunkRows = 48;  // gathered at a time: with a tile of weights, they fit the L1 cache

template <typename A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kBytes)));
};
template <>
struct VectorOf<BFloat16Pair> {
  typedef uint32_t type __attribute__((vector_size(kBytes)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;

template <typename A>
constexpr int64_t kWidth = kBytes / static_cast<int64_t>(sizeof(A));

template <typename A>
FL_SIMD Vector<A> load(const A* p) {
  Vector<A> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <typename A>
FL_SIMD void store(A* p, Vector<A> v) {
  std::memcpy(p, &v, sizeof(v));
}

// x - 0 is x for every x, so that only a broadcast is left of it; 0 + x would have to turn -0 to 0.
template <typename A>
FL_SIMD Vector<A> broadcast(const A* x) {
  return *x - Vector<A>{};
}
// Two numbers of 16 bits need not lie at a multiple of four bytes.
FL_SIMD Vector<BFloat16Pair> broadcast(const BFloat16Pair* x) {
  uint32_t bits;
  std::memcpy(&bits, x, sizeof(bits));
  return bits - Vector<BFloat16Pair>{};
}

template <typename V>
FL_SIMD void multiply_add(V x, V w, V& sum) {
  sum += x * w;
}
FL_SIMD void multiply_add(Vector<BFloat16Pair> x, Vector<BFloat16Pair> w, Vector<float>& sum) {
#if defined(FL_MULTIPLY_PAIRS)
  const __m512 more = _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(x),
                                       reinterpret_cast<__m512bh>(w));
  sum = reinterpret_cast<Vector<float>>(more);
#else
  typedef Vector<float> Floats;
  sum += reinterpret_cast<Floats>(x << 16) * reinterpret_cast<Floats>(w << 16);
  sum += reinterpret_cast<Floats>(x & 0xffff0000u) * reinterpret_cast<Floats>(w & 0xffff0000u);
#endif
}

// Calls f with n as a constant, for n from 1 to kMost.
template <int kMost, typename F>
FL_SIMD void with_constant(int n, const F& f) {
  if constexpr (kMost == 1) {
    f(std::integral_constant<int, 1>{});
  } else {
    if (n == kMost)
      f(std::integral_constant<int, kMost>{});
    else
      with_constant<kMost - 1>(n, f);
  }
}

// Cuts n into the fewest parts of at most kRows, of nearly equal size, so that none is left with
// too few sums to keep the multipliers busy; calls f(first, size) with the size as a constant.
template <typename F>
FL_SIMD void in_even_parts(int n, const F& f) {
  const int parts = (n + kRows - 1) / kRows;
  if (parts == 0) return;
  const int small = n / parts, larger = n % parts;
  int first = 0;
  if (larger > 0)
    with_constant<kRows>(small + 1, [&](auto size) {
      for (int part = 0; part < larger; ++part, first += size.value) f(first, size);
    });
  with_constant<kRows>(small, [&](auto size) {
    for (; first < n; first += size.value) f(first, size);
  });
}

// Calls f(column, vectors) for every tile of a group's output channels.
template <int64_t kVector, typename F>
FL_SIMD void in_tiles_of(int64_t channels, const F& f) {
  for (int64_t column = 0; column < channels; column += kVectors * kVector)
    f(column, channels - column > kVector ? 2 : 1);
}
template <typename A, typename F>
FL_SIMD void in_tiles(int64_t channels, const F& f) {
  in_tiles_of<kWidth<A>>(channels, f);
}

template <int64_t kVector>
void pack_weight_pairs(const sparse::BFloat16* weight, Channels c, BFloat16Pair* packed) {
  std::memset(packed, 0, c.packed<float>() * sizeof(BFloat16Pair));
  for (int64_t g = 0; g < c.groups; ++g)
    in_tiles_of<kVector>(c.out, [&](int64_t column, int vectors) {
      const int64_t width = vectors * kVector, left = c.out - column;
      BFloat16Pair* tile = packed + (g * sparse::padded<float>(c.out) + column) * c.depth;
      for (int64_t k = 0; k < c.in; ++k) {
        const sparse::BFloat16* even = weight + 2 * k * c.all_out() + g * c.out + column;
        for (int64_t i = 0; i < (width < left ? width : left); ++i)
          tile[k * width + i] = {even[i], even[c.all_out() + i]};
      }
    });
}

// The rows' input channels by a tile of weights [depth, kTile].
template <int kCount, int kTile, typename A, typename E>
FL_SIMD void multiply_rows(const E* const* rows, int64_t from, int64_t depth,
                           const E* FL_RESTRICT weight, A* const* sums, int64_t column) {
  Vector<A> sum[kCount][kTile] = {};
  const E* row[kCount];
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    row[r] = rows[r] + from;
    __builtin_prefetch(sums[r] + column, 1, 3);
  }
// The end of a loop of few turns is foreseen.
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k) {
    Vector<E> w[kTile];
#pragma GCC unroll 2
    for (int v = 0; v < kTile; ++v) w[v] = load(weight + (k * kTile + v) * kWidth<A>);
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      const Vector<E> x = broadcast(row[r] + k);
#pragma GCC unroll 2
      for (int v = 0; v < kTile; ++v) multiply_add(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    A* to = sums[r] + column;
#pragma GCC unroll 2
    for (int v = 0; v < kTile; ++v) store(to + v * kWidth<A>, load(to + v * kWidth<A>) + sum[r][v]);
  }
}

// Pairs of one tap that are done together: at most kMost, and all but the last a kMultiple.
struct Chunk {
  int64_t tap, begin;
  int count;
};

template <int64_t kMost, int64_t kMultiple, typename A, typename E>
FL_SIMD Chunk chunk_at(const BlockArgs<A, E>& a, int64_t tap, int64_t begin) {
  while (tap < a.n_taps && begin >= a.ends[tap]) {
    ++tap;
    begin = tap < a.n_taps ? a.begins[tap] : 0;
  }
  const int64_t left = tap < a.n_taps ? a.ends[tap] - begin : 0;
  if (left == 0) return {tap, begin, 0};
  // Two chunks of one size rather than a full one and a rest.
  const int64_t chunks = (left + kMost - 1) / kMost, even = (left + chunks - 1) / chunks;
  const int64_t size = (even + kMultiple - 1) / kMultiple * kMultiple;
  return {tap, begin, static_cast<int>(size < left ? size : left)};
}

// How many tiles all groups have, times the parts that n is cut into.
template <typename A>
FL_SIMD int64_t calls(const Channels& c, int64_t n) {
  constexpr int64_t tile = kVectors * kWidth<A>;
  return c.groups * ((c.out + tile - 1) / tile) * ((n + kRows - 1) / kRows);
}

// Asks for rows that are needed next, a few at each of `calls` calls, while others are worked on.
template <typename A>
class Prefetch {
 public:
  FL_HD Prefetch(const A* table, int64_t stride, const int32_t* rows, int64_t count, int64_t calls)
      : table_(table),
        stride_(stride),
        rows_(rows),
        left_(static_cast<int>(count)),
        step_(static_cast<int>((count + calls - 1) / calls)) {}

  FL_HD void some() {
    for (int i = step_ < left_ ? step_ : left_; i > 0; --i, --left_, ++rows_) {
      const A* row = table_ + static_cast<int64_t>(*rows_) * stride_;
      for (int64_t c = 0; c < stride_; c += 64 / static_cast<int64_t>(sizeof(A)))
        __builtin_prefetch(row + c, 0, 3);
    }
  }

 private:
  const A* table_;
  int64_t stride_;
  const int32_t* rows_;
  int left_, step_;
};

// Where the features of a chunk's pairs are, and their sums.
template <typename A, typename E>
FL_SIMD void place_rows(const BlockArgs<A, E>& a, const Chunk& chunk, const E** rows, A** sums) {
  for (int i = 0; i < chunk.count; ++i) {
    const int64_t in = a.in_rows[chunk.begin + i], out = a.out_rows[chunk.begin + i] - a.first_row;
    rows[i] = a.features + in * a.channels.all_in();
    sums[i] = a.sums + out * a.channels.template row<A>();
  }
}

template <typename A, typename E>
FL_SIMD void multiply_chunk(const BlockArgs<A, E>& a, const Chunk& chunk, const Chunk& next) {
  const Channels& c = a.channels;
  const E* rows[kChunkRows];
  A* sums[kChunkRows];
  place_rows(a, chunk, rows, sums);
  Prefetch<E> prefetch(a.features, c.all_in(), a.in_rows + next.begin, next.count,
                       calls<A>(c, chunk.count));
  const E* weight = a.weight + chunk.tap * c.template packed<A>();
  for (int64_t g = 0; g < c.groups; ++g) {
    const int64_t group = g * sparse::padded<A>(c.out);
    in_tiles<A>(c.out, [&](int64_t column, int vectors) {
      const E* tile = weight + (group + column) * c.depth;
      with_constant<kVectors>(vectors, [&](auto width) {
        in_even_parts(chunk.count, [&](int first, auto count) {
          prefetch.some();
          multiply_rows<count.value, width.value>(rows + first, g * c.in, c.in, tile, sums + first,
                                                  group + column);
        });
      });
    });
  }
}

template <typename A, typename E>
FL_SIMD void multiply_block(const BlockArgs<A, E>& a) {
  Chunk chunk = chunk_at<kChunkRows, 1>(a, 0, a.begins[0]);
  while (chunk.count > 0) {
    const Chunk next = chunk_at<kChunkRows, 1>(a, chunk.tap, chunk.begin + chunk.count);
    multiply_chunk(a, chunk, next);
    chunk = next;
  }
}

}  // namespace
}  // namespace FL_ISA
}  // namespace fl
