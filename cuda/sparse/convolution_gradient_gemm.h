// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight: for each tap a product of gathered features, transposed, with
// gathered gradients. The pairs of all taps, one tap after another, are dealt into equal shares, so
// that all blocks end at once; where a tap ends within a share, the block leaves its sums and
// begins anew. Another launch adds what the shares have of a tap, in order.
#pragma once

#include "sparse/convolution_gemm.h"

namespace fl::sparse {

template <typename T>
struct GradientArgs {
  const T* features;
  const T* gradient;
  int n_in, n_out, channels_in, channels_out, n_taps;
  const int32_t* in_rows;
  const int32_t* out_rows;
  const int64_t* starts;
  int64_t n_pairs;  // at least as many as there are
  int64_t shares;
  int own_in, own_out;  // channels of a group
  Sum<T>* partial;      // [shares + n_taps, own_in, channels_out]

  // From each part of a share to the next, the share or the tap is one further.
  FL_HD Sum<T>* partial_of(int64_t share, int tap) const {
    return partial + (share + tap) * own_in * channels_out;
  }
  FL_D int64_t share_pairs() const {
    const int64_t last = starts[n_taps], all = last < 0 ? 0 : last > n_pairs ? n_pairs : last;
    return all > shares ? (all + shares - 1) / shares : 1;
  }
};

constexpr int kPlainGradientTile = 64;

// The first tap with pairs from `place` on, for whole warps that ask for the same.
template <typename T>
FL_D int find_tap(const GradientArgs<T>& a, int64_t place) {
  for (int tap0 = 0; tap0 < a.n_taps; tap0 += 32) {
    const int tap = tap0 + static_cast<int>(threadIdx.x) % 32;
    const bool reaches = tap < a.n_taps && TapPairs(a.starts, a.n_pairs, tap).end() > place;
    const unsigned found = __ballot_sync(kWholeWarp, reaches);
    if (found != 0) return tap0 + __ffs(static_cast<int>(found)) - 1;
  }
  return a.n_taps;
}

// Calls f(tap, first, count) for what the block's share has of each tap's pairs.
template <typename T, typename F>
FL_D void for_parts_of_share(const GradientArgs<T>& a, const F& f) {
  const int64_t pairs = a.share_pairs(), first = blockIdx.x * pairs, end = first + pairs;
  for (int tap = find_tap(a, first); tap < a.n_taps; ++tap) {
    const TapPairs of_tap(a.starts, a.n_pairs, tap);
    const int64_t from = of_tap.first > first ? of_tap.first : first;
    const int64_t to = of_tap.end() < end ? of_tap.end() : end;
    if (from < to) f(tap, from, static_cast<int>(to - from));
    if (of_tap.end() >= end) break;
  }
}

// An operand's rows at a part of the pairs; -1 where there is none.
template <typename T>
struct GatheredRows {
  const T* values;
  const int32_t* rows;
  int count, n_rows, channels;

  FL_D int32_t at(int pair) const {
    const int32_t row = pair < count ? rows[pair] : int32_t{-1};
    return row < n_rows ? row : -1;
  }
};

template <typename T>
FL_D GatheredRows<T> features_at(const GradientArgs<T>& a, int64_t first, int count) {
  return {a.features, a.in_rows + first, count, a.n_in, a.channels_in};
}
template <typename T>
FL_D GatheredRows<T> gradient_at(const GradientArgs<T>& a, int64_t first, int count) {
  return {a.gradient, a.out_rows + first, count, a.n_out, a.channels_out};
}

// One step of an operand: [kDepth pairs][kTile channels].
template <int kDepth, int kTile, int kThreads, int kStride, typename T, typename S>
FL_D void load_plain(S* to, const GatheredRows<T>& from, int first, int channel0) {
  for (int item = static_cast<int>(threadIdx.x); item < kDepth * kTile; item += kThreads) {
    const int channel = channel0 + item % kTile;
    const int32_t row = channel < from.channels ? from.at(first + item / kTile) : int32_t{-1};
    S value{};
    if (row >= 0) {
      const T found = from.values[static_cast<int64_t>(row) * from.channels + channel];
      if constexpr (std::is_same<S, T>::value)
        value = found;
      else
        value = widen(found);
    }
    to[item / kTile * kStride + item % kTile] = value;
  }
}

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) plain_gradient_kernel(GradientArgs<T> a) {
  using S = Sum<T>;
  constexpr int kDepth = 16, kThreads = 256, kEach = 4, kTile = kPlainGradientTile;
  FL_SHARED(S, from, kDepth * kTile);
  FL_SHARED(S, to, kDepth * kTile);
  const int row0 = static_cast<int>(blockIdx.y) * kTile;
  const int column0 = static_cast<int>(blockIdx.z) * kTile;
  const int my_row = static_cast<int>(threadIdx.x) / 16 * kEach;
  const int my_column = static_cast<int>(threadIdx.x) % 16 * kEach;
  for_parts_of_share(a, [&](int tap, int64_t first_pair, int count) {
    const GatheredRows<T> features = features_at(a, first_pair, count);
    const GatheredRows<T> gradient = gradient_at(a, first_pair, count);
    S sums[kEach][kEach] = {};
    for (int first = 0; first < count; first += kDepth) {
      load_plain<kDepth, kTile, kThreads, kTile>(&from[0], features, first, row0);
      load_plain<kDepth, kTile, kThreads, kTile>(&to[0], gradient, first, column0);
      __syncthreads();
      FL_UNROLL
      for (int d = 0; d < kDepth; ++d) {
        S x[kEach], g[kEach];
        FL_UNROLL
        for (int i = 0; i < kEach; ++i) {
          x[i] = from[d * kTile + my_row + i];
          g[i] = to[d * kTile + my_column + i];
        }
        FL_UNROLL
        for (int i = 0; i < kEach; ++i) FL_UNROLL
        for (int j = 0; j < kEach; ++j) sums[i][j] += x[i] * g[j];
      }
      __syncthreads();
    }
    S* const partial = a.partial_of(blockIdx.x, tap);
    for (int i = 0; i < kEach; ++i)
      for (int j = 0; j < kEach; ++j) {
        const int row = row0 + my_row + i, column = column0 + my_column + j;
        if (row < a.channels_in && column < a.channels_out)
          partial[static_cast<int64_t>(row) * a.channels_out + column] = sums[i][j];
      }
  });
}

// Groups of channels: a thread a value of the weight.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) grouped_gradient_kernel(GradientArgs<T> a) {
  const int64_t values = static_cast<int64_t>(a.own_in) * a.channels_out;
  for_parts_of_share(a, [&](int tap, int64_t first_pair, int count) {
    const GatheredRows<T> features = features_at(a, first_pair, count);
    const GatheredRows<T> gradient = gradient_at(a, first_pair, count);
    for (int64_t i = static_cast<int64_t>(blockIdx.y) * 256 + threadIdx.x; i < values;
         i += static_cast<int64_t>(gridDim.y) * 256) {
      const int64_t column = i % a.channels_out;
      const int64_t channel = column / a.own_out * a.own_in + i / a.channels_out;
      Sum<T> sum = Sum<T>(0);
      for (int pair = 0; pair < count; ++pair) {
        const int64_t from = features.at(pair), to = gradient.at(pair);
        if (from >= 0 && to >= 0)
          sum += widen(a.features[from * a.channels_in + channel]) *
                 widen(a.gradient[to * a.channels_out + column]);
      }
      a.partial_of(blockIdx.x, tap)[i] = sum;
    }
  });
}

// What the shares have of a tap, in order; several are read at once. Out is T or wider.
template <typename Out, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(256, 2) sum_shares_kernel(GradientArgs<T> a, Out* FL_RESTRICT out) {
  constexpr int kTogether = 8;
  const int64_t values = static_cast<int64_t>(a.own_in) * a.channels_out;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  const int tap = static_cast<int>(blockIdx.y);
  if (i >= values) return;
  const TapPairs pairs(a.starts, a.n_pairs, tap);
  const int64_t share_pairs = a.share_pairs(), past = (pairs.end() + share_pairs - 1) / share_pairs;
  const int64_t first = pairs.first / share_pairs;
  const int64_t end = pairs.count == 0 ? first : past < a.shares ? past : a.shares;
  Sum<T> sum = Sum<T>(0);
  for (int64_t share = first; share < end; share += kTogether) {
    Sum<T> found[kTogether];
    FL_UNROLL
    for (int k = 0; k < kTogether; ++k)
      found[k] = share + k < end ? a.partial_of(share + k, tap)[i] : Sum<T>(0);
    FL_UNROLL
    for (int k = 0; k < kTogether; ++k) sum += found[k];
  }
  out[tap * values + i] = narrow<Out>(sum);
}

}  // namespace fl::sparse
