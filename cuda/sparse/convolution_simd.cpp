// SPDX-License-Identifier: Apache-2.0
//
// Convolution of a block of rows, what becomes of its sums, and the gradient of weights.
#include "sparse/convolution_simd.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "sparse/activation_simd.h"
#include "sparse/convolution_tiles.h"
#include "sparse/rows_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using sparse::EpilogueArgs;
using sparse::OuterArgs;

constexpr int kChunkPairs = 128;

template <typename A>
FL_SIMD void scale_channels(const BlockArgs<A>& a) {
  const int64_t channels = a.channels.groups, stride = sparse::padded<A>(channels);
  for (int64_t t = 0; t < a.n_taps; ++t)
    for (int64_t p = a.begins[t]; p < a.ends[t]; ++p) {
      const A* FL_RESTRICT row = a.features + static_cast<int64_t>(a.in_rows[p]) * channels;
      const A* FL_RESTRICT w = a.weight + t * stride;
      A* FL_RESTRICT sum = a.sums + (a.out_rows[p] - a.first_row) * stride;
      for (int64_t c = 0; c < channels; ++c) sum[c] += row[c] * w[c];
    }
}

// features[from + r]^T of each pair by a tile of its gradient.
template <int kCount, int kTile, typename A>
FL_SIMD void add_outer(const A* const* rows, int64_t from, int n_pairs,
                       const A* FL_RESTRICT gradient, A* FL_RESTRICT sums, int64_t stride) {
  Vector<A> sum[kCount][kTile] = {};
  for (int p = 0; p < n_pairs; ++p) {
    const A* row = rows[p] + from;
    Vector<A> g[kTile];
#pragma GCC unroll 2
    for (int v = 0; v < kTile; ++v) g[v] = load(gradient + (p * kTile + v) * kWidth<A>);
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      const Vector<A> x = broadcast(row + r);
#pragma GCC unroll 2
      for (int v = 0; v < kTile; ++v) sum[r][v] += x * g[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    A* to = sums + r * stride;
#pragma GCC unroll 2
    for (int v = 0; v < kTile; ++v) store(to + v * kWidth<A>, load(to + v * kWidth<A>) + sum[r][v]);
  }
}

// A tile of the gradients' columns, one pair after another, zeros beyond the last channel.
template <int kTile, typename A>
FL_SIMD void pack_tile(const A* const* rows, int n_pairs, int64_t column, int64_t columns,
                       A* FL_RESTRICT tile) {
  constexpr int64_t width = kTile * kWidth<A>;
  for (int p = 0; p < n_pairs; ++p) {
    const A* row = rows[p] + column;
    A* to = tile + p * width;
    if (columns >= width)
      std::memcpy(to, row, width * sizeof(A));
    else
      for (int64_t c = 0; c < width; ++c) to[c] = c < columns ? row[c] : A(0);
  }
}

template <typename A>
FL_SIMD void outer_chunk(const OuterArgs<A>& a, int64_t begin, int n_pairs) {
  const Channels& c = a.channels;
  const A *rows[kChunkPairs], *gradients[kChunkPairs];
  for (int p = 0; p < n_pairs; ++p) {
    rows[p] = a.features + static_cast<int64_t>(a.in_rows[begin + p]) * c.all_in();
    gradients[p] = a.gradient + static_cast<int64_t>(a.out_rows[begin + p]) * c.all_out();
  }
  const int64_t after = begin + n_pairs, more = a.n_pairs - after;
  const int64_t next = more < kChunkPairs ? more : kChunkPairs;
  Prefetch<A> prefetch_row(a.features, c.all_in(), a.in_rows + after, next, calls<A>(c, c.in));
  Prefetch<A> prefetch_gradient(a.gradient, c.all_out(), a.out_rows + after, next,
                                calls<A>(c, c.in));
  alignas(kBytes) A tile[kChunkPairs * kVectors * kWidth<A>];
  for (int64_t g = 0; g < c.groups; ++g)
    in_tiles<A>(c.out, [&](int64_t column, int vectors) {
      A* sums = a.sums + g * sparse::padded<A>(c.out) + column;
      with_constant<kVectors>(vectors, [&](auto width) {
        pack_tile<width.value>(gradients, n_pairs, g * c.out + column, c.out - column, tile);
        in_even_parts(static_cast<int>(c.in), [&](int first, auto count) {
          prefetch_row.some();
          prefetch_gradient.some();
          add_outer<count.value, width.value, A>(rows, g * c.in + first, n_pairs, tile,
                                                 sums + first * c.template row<A>(),
                                                 c.template row<A>());
        });
      });
    });
}

template <typename A>
FL_SIMD void add_channel_products(const OuterArgs<A>& a) {
  const int64_t channels = a.channels.groups;
  for (int64_t p = 0; p < a.n_pairs; ++p) {
    const A* FL_RESTRICT row = a.features + static_cast<int64_t>(a.in_rows[p]) * channels;
    const A* FL_RESTRICT g = a.gradient + static_cast<int64_t>(a.out_rows[p]) * channels;
    A* FL_RESTRICT sum = a.sums;
    for (int64_t c = 0; c < channels; ++c) sum[c] += row[c] * g[c];
  }
}

}  // namespace

template <typename T>
void pack_weight(const T* weight, Channels c, Sum<T>* packed) {
  using A = Sum<T>;
  std::memset(packed, 0, c.packed<A>() * sizeof(A));
  if (c.depthwise()) return copy_row(packed, weight, c.groups);
  for (int64_t g = 0; g < c.groups; ++g)
    in_tiles<A>(c.out, [&](int64_t column, int vectors) {
      const int64_t width = vectors * kWidth<A>;
      A* tile = packed + (g * sparse::padded<A>(c.out) + column) * c.in;
      for (int64_t k = 0; k < c.in; ++k)
        copy_row(tile + k * width, weight + k * c.all_out() + g * c.out + column,
                 width < c.out - column ? width : c.out - column);
    });
}

template <typename A>
void convolve_block(const BlockArgs<A>& a) {
  if (a.channels.depthwise()) return scale_channels(a);
  multiply_block(a);
}

sparse::PairConvolution pair_convolution() {
  const char* variable = std::getenv("FIELDLINE_BF16");
  const std::string_view wish = variable == nullptr ? "" : variable;
  if (wish == "tiles" || (wish != "pairs" && has_tile_registers())) return tile_convolution();
  const auto pack = pack_weight_pairs<kWidth<float>>;
#if defined(FL_BF16_PRODUCTS)
  if (has_bf16_products() && (wish == "pairs" || fast_bf16_products()))
    return {pack, convolve_block_by_bf16_products};
#endif
  if (wish == "pairs") return {pack, multiply_block<float, BFloat16Pair>};
  return {};
}

template <typename T>
void finish_block(const EpilogueArgs<T>& a) {
  const Channels& c = a.channels;
  const int64_t parts = c.depthwise() ? 1 : c.groups, width = c.all_out() / parts;
  const int64_t stride = c.row<Sum<T>>();
  for (int64_t i = 0; i < a.rows; ++i) {
    Sum<T>* row = a.sums + i * stride;
    add_row(row, a.bias, stride);
    if (a.residual != nullptr)
      for (int64_t g = 0; g < parts; ++g)
        add_row(row + g * (stride / parts), a.residual + i * c.all_out() + g * width, width);
    activate_any(a.activation, row, stride, a.slope);
    for (int64_t g = 0; g < parts; ++g)
      store_row(a.out + i * c.all_out() + g * width, row + g * (stride / parts), width);
  }
}

template <typename A>
void add_outer_products(const OuterArgs<A>& a) {
  if (a.channels.depthwise()) return add_channel_products(a);
  for (int64_t begin = 0; begin < a.n_pairs; begin += kChunkPairs) {
    const int64_t left = a.n_pairs - begin;
    outer_chunk(a, begin, left < kChunkPairs ? static_cast<int>(left) : kChunkPairs);
  }
}

template <typename T>
void widen_all(const T* from, int64_t n, float* to) {
  copy_row(to, from, n);
}

template void pack_weight(const float*, Channels, float*);
template void pack_weight(const double*, Channels, double*);
template void pack_weight(const sparse::Half*, Channels, float*);
template void pack_weight(const sparse::BFloat16*, Channels, float*);
template void convolve_block(const BlockArgs<float>&);
template void convolve_block(const BlockArgs<double>&);
template void finish_block(const EpilogueArgs<float>&);
template void finish_block(const EpilogueArgs<double>&);
template void finish_block(const EpilogueArgs<sparse::Half>&);
template void finish_block(const EpilogueArgs<sparse::BFloat16>&);
template void add_outer_products(const OuterArgs<float>&);
template void add_outer_products(const OuterArgs<double>&);
template void widen_all(const sparse::Half*, int64_t, float*);
template void widen_all(const sparse::BFloat16*, int64_t, float*);

}  // namespace FL_ISA
}  // namespace fl
