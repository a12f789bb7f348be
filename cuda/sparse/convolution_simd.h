// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD kernels of convolution take. A block of output rows has its sums in a buffer that
// stays in the cache: sums[rows, groups * padded], where the channels of each group are padded to
// 64 bytes. Weights are packed so that a kernel reads them in one run: for every tap and group, a
// tile of two vectors of output channels after another, each [channels.depth, tile].
#pragma once

#include "core/isa.h"
#include "sparse/convolution.h"
#include "sparse/element.h"

namespace fl::sparse {

constexpr int kAlignment = 64;

template <typename A>
constexpr int64_t padded(int64_t channels) {
  constexpr int64_t lanes = kAlignment / static_cast<int64_t>(sizeof(A));
  return (channels + lanes - 1) / lanes * lanes;
}

// Channels of a convolution: in each of `groups`, `in` and `out`.
struct Channels {
  int64_t groups, in, out;
  int64_t depth = in;  // of packed weights: zeros follow the last of `in`

  constexpr bool depthwise() const { return groups > 1 && in == 1 && out == 1; }
  constexpr int64_t all_in() const { return groups * in; }
  constexpr int64_t all_out() const { return groups * out; }
  // Elements of a row of sums. A depthwise convolution has its groups side by side.
  template <typename A>
  constexpr int64_t row() const {
    return depthwise() ? padded<A>(groups) : groups * padded<A>(out);
  }
  // Elements of a tap's packed weights.
  template <typename A>
  constexpr int64_t packed() const {
    return depth * row<A>();
  }
};

// Two input channels that are multiplied at once; Channels::in counts pairs then.
struct BFloat16Pair {
  BFloat16 even, odd;
};

// Those pairs of each tap whose output rows are in the block.
template <typename A, typename E = A>
struct BlockArgs {
  const E* features;  // [n_in, channels.all_in()]
  const E* weight;    // packed
  const int32_t *in_rows, *out_rows;
  const int64_t *begins, *ends;  // [n_taps]
  int64_t n_taps, first_row;
  Channels channels;
  A* sums;
};

// A kernel for pairs of bfloat16, and what packs weights for it, to a multiple of `depth_step`
// pairs.
struct PairConvolution {
  void (*pack)(const BFloat16* weight, Channels channels, BFloat16Pair* packed) = nullptr;
  void (*convolve)(const BlockArgs<float, BFloat16Pair>& args) = nullptr;
  int64_t depth_step = 1;
};

template <typename T>
struct EpilogueArgs {
  const Sum<T>* bias;  // [channels.row()]
  const T* residual;   // [rows, channels.all_out()], or null
  int64_t rows;
  Channels channels;
  Activation activation;
  Sum<T> slope;
  Sum<T>* sums;  // overwritten
  T* out;
};

// Some pairs of one tap: sums[channels.in, channels.row()] += features[in]^T gradient[out].
template <typename A>
struct OuterArgs {
  const A *features, *gradient;
  const int32_t *in_rows, *out_rows;
  int64_t n_pairs;
  Channels channels;
  A* sums;
};

}  // namespace fl::sparse

// Whether the level being compiled may go on to the products of AVX512-BF16.
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__GNUC__) && !defined(__clang__)
#define FL_BF16_PRODUCTS
#endif

namespace fl {

FL_ISA_DECLARE(template <typename T>
               void pack_weight(const T* weight, sparse::Channels channels, sparse::Sum<T>* packed))
FL_ISA_DECLARE(template <typename A> void convolve_block(const sparse::BlockArgs<A>& args))
// For a CPU that multiplies pairs of bfloat16, and fast; null elsewhere, where widening the
// features first is faster. FIELDLINE_BF16=tiles or pairs takes the kernel for tile registers or
// the one for vectors wherever it runs, or else its plain twin, so that any machine can test all
// but the instructions.
FL_ISA_DECLARE(sparse::PairConvolution pair_convolution())
FL_ISA_DECLARE(template <typename T> void finish_block(const sparse::EpilogueArgs<T>& args))
FL_ISA_DECLARE(template <typename A> void add_outer_products(const sparse::OuterArgs<A>& args))
FL_ISA_DECLARE(template <typename T> void widen_all(const T* from, int64_t n, float* to))
FL_ISA_DECLARE(bool has_tile_registers())
FL_ISA_DECLARE(sparse::PairConvolution tile_convolution())

#if defined(FL_BF16_PRODUCTS)
namespace FL_ISA {
bool has_bf16_products();
bool fast_bf16_products();
void convolve_block_by_bf16_products(const sparse::BlockArgs<float, sparse::BFloat16Pair>& args);
}  // namespace FL_ISA
#endif

}  // namespace fl
