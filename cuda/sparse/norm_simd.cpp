// SPDX-License-Identifier: Apache-2.0
//
// Batch normalisation of rows on the CPU: plain loops over channels that the compiler turns into
// vectors. Each row is read once and written once.
#include "sparse/norm_simd.h"

#include "core/portable.h"
#include "sparse/activation_simd.h"
#include "sparse/rows_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using sparse::ChannelLists;
using sparse::NormArgs;
using sparse::NormGradientArgs;
using sparse::PartSums;
using sparse::StatisticsArgs;

constexpr int64_t kRowsAtOnce = 32;  // the first cache holds them for the second pass

// Adds rows to sums four at a time: fewer trips of the sums through the cache.
template <typename T>
FL_SIMD void sum_rows(Sum<T>* FL_RESTRICT sums, const T* FL_RESTRICT rows, int64_t count,
                      int64_t n) {
  for (int64_t c = 0; c < n; ++c) sums[c] = Sum<T>(0);
  int64_t r = 0;
  for (; r + 4 <= count; r += 4, rows += 4 * n)
    for (int64_t c = 0; c < n; ++c)
      sums[c] += (sparse::widen(rows[c]) + sparse::widen(rows[n + c])) +
                 (sparse::widen(rows[2 * n + c]) + sparse::widen(rows[3 * n + c]));
  for (; r < count; ++r, rows += n) add_row(sums, rows, n);
}

template <typename T>
FL_SIMD void add_squares(Sum<T>* FL_RESTRICT squares, const Sum<T>* FL_RESTRICT mean,
                         const T* FL_RESTRICT rows, int64_t count, int64_t n) {
  using S = Sum<T>;
  int64_t r = 0;
  for (; r + 4 <= count; r += 4, rows += 4 * n)
    for (int64_t c = 0; c < n; ++c) {
      const S a = sparse::widen(rows[c]) - mean[c], b = sparse::widen(rows[n + c]) - mean[c];
      const S d = sparse::widen(rows[2 * n + c]) - mean[c];
      const S e = sparse::widen(rows[3 * n + c]) - mean[c];
      squares[c] += (a * a + b * b) + (d * d + e * e);
    }
  for (; r < count; ++r, rows += n)
    for (int64_t c = 0; c < n; ++c) {
      const S a = sparse::widen(rows[c]) - mean[c];
      squares[c] += a * a;
    }
}

template <typename S>
FL_SIMD void join_rows(PartSums<S> part, int64_t before, const S* FL_RESTRICT mean,
                       const S* FL_RESTRICT squares, int64_t count, int64_t n) {
  const sparse::JoinWeights<S> weights(before, count);
  S *FL_RESTRICT first = part.first, *FL_RESTRICT second = part.second;
  for (int64_t c = 0; c < n; ++c) {
    sparse::Moments<S> all{first[c], second[c]};
    sparse::join(all, {mean[c], squares[c]}, weights);
    first[c] = all.mean, second[c] = all.squares;
  }
}

// z = (x - mean) * scale + shift + residual, activated, of one row.
template <Activation kKind, bool kResidual, typename T, typename Out>
FL_SIMD void normalise_row(const ChannelLists<Sum<T>>& channels, const T* FL_RESTRICT row,
                           const T* FL_RESTRICT residual, Out* FL_RESTRICT out, Sum<T> slope,
                           int64_t n) {
  using S = Sum<T>;
  const S *FL_RESTRICT mean = channels.mean, *FL_RESTRICT scale = channels.scale,
                       *FL_RESTRICT shift = channels.shift;
  for (int64_t c = 0; c < n; ++c) {
    S z = (sparse::widen(row[c]) - mean[c]) * scale[c] + shift[c];
    if constexpr (kResidual) z += sparse::widen(residual[c]);
    sparse::narrow(sparse::activate(kKind, z, slope), out[c]);
  }
}

template <bool kResidual, typename T, typename Out>
FL_SIMD void normalise_by_kind(const NormArgs<T>& a, const ChannelLists<Sum<T>>& channels,
                               const T* row, const T* residual, Out* out) {
  if (a.activation == Activation::relu)
    normalise_row<Activation::relu, kResidual>(channels, row, residual, out, a.slope, a.channels);
  else if (a.activation == Activation::leaky_relu)
    normalise_row<Activation::leaky_relu, kResidual>(channels, row, residual, out, a.slope,
                                                     a.channels);
  else
    normalise_row<Activation::none, kResidual>(channels, row, residual, out, a.slope, a.channels);
}

FL_SIMD bool is_smooth(Activation kind) {
  return kind == Activation::silu || kind == Activation::gelu || kind == Activation::sigmoid;
}

// z of one row; what is smooth is not activated yet.
template <typename T, typename Out>
FL_SIMD void normalise(const NormArgs<T>& a, const ChannelLists<Sum<T>>& channels, int64_t i,
                       Out* out) {
  const T* row = a.features + i * a.channels;
  if (a.residual != nullptr)
    normalise_by_kind<true>(a, channels, row, a.residual + i * a.channels, out);
  else
    normalise_by_kind<false>(a, channels, row, static_cast<const T*>(nullptr), out);
}

template <Activation kKind, typename T>
FL_SIMD void vjp_row_of(Sum<T>* FL_RESTRICT z, const T* FL_RESTRICT gradient, Sum<T> slope,
                        int64_t n) {
  for (int64_t c = 0; c < n; ++c)
    z[c] = sparse::activation_vjp_of_output(kKind, z[c], slope, sparse::widen(gradient[c]));
}

// From values to the gradient of z, in place. The values are y, or z where it is not `of_output`.
template <typename T>
FL_SIMD void vjp_row(const NormArgs<T>& a, bool of_output, Sum<T>* FL_RESTRICT values,
                     const T* FL_RESTRICT gradient) {
  const int64_t n = a.channels;
  const Activation kind = a.activation;
  if (kind == Activation::relu) {
    vjp_row_of<Activation::relu>(values, gradient, a.slope, n);
  } else if (kind == Activation::leaky_relu) {
    vjp_row_of<Activation::leaky_relu>(values, gradient, a.slope, n);
  } else if (of_output) {
    vjp_row_of<Activation::sigmoid>(values, gradient, a.slope, n);
  } else if constexpr (sizeof(Sum<T>) == sizeof(float)) {
    for (int64_t c = 0; c < n; c += kLanes)
      store16(values + c, derivative16(kind, load16(values + c)));
    for (int64_t c = 0; c < n; ++c) values[c] *= sparse::widen(gradient[c]);
  } else {
    for (int64_t c = 0; c < n; ++c)
      values[c] = sparse::activation_vjp(kind, values[c], a.slope, sparse::widen(gradient[c]));
  }
}

// The gradient of z of one row, in `to`.
template <typename T>
FL_SIMD void gradient_of_row(const NormGradientArgs<T>& a, const ChannelLists<Sum<T>>& channels,
                             int64_t i, Sum<T>* to) {
  const NormArgs<T>& forward = a.forward;
  const int64_t n = forward.channels;
  const T* gradient = a.gradient + i * n;
  if (forward.activation == Activation::none) return copy_row(to, gradient, n);
  if (a.out != nullptr) {
    copy_row(to, a.out + i * n, n);
  } else {
    NormArgs<T> plain = forward;
    plain.activation = Activation::none;
    normalise(plain, channels, i, to);
  }
  vjp_row(forward, a.out != nullptr, to, gradient);
}

}  // namespace

template <typename T>
void reduce_moments(const StatisticsArgs<T>& a, int64_t begin, int64_t end, PartSums<Sum<T>> part,
                    Sum<T>* scratch) {
  const int64_t n = a.channels;
  Sum<T>*mean = scratch, *squares = scratch + sparse::padded<Sum<T>>(n);
  fill_row(part.first, Sum<T>(0), n);
  fill_row(part.second, Sum<T>(0), n);
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int64_t count = end - first < kRowsAtOnce ? end - first : kRowsAtOnce;
    const T* rows = a.features + first * n;
    sum_rows(mean, rows, count, n);
    for (int64_t c = 0; c < n; ++c) mean[c] /= static_cast<Sum<T>>(count);
    fill_row(squares, Sum<T>(0), n);
    add_squares(squares, mean, rows, count, n);
    join_rows(part, first - begin, mean, squares, count, n);
  }
}

template <typename T>
void normalise_rows(const NormArgs<T>& a, const ChannelLists<Sum<T>>& channels, T* out,
                    int64_t begin, int64_t end, Sum<T>* scratch) {
  const int64_t n = a.channels;
  const bool smooth = is_smooth(a.activation);
  for (int64_t i = begin; i < end; ++i) {
    if (!smooth) {
      normalise(a, channels, i, out + i * n);
      continue;
    }
    normalise(a, channels, i, scratch);
    activate_smoothly(a.activation, scratch, n);
    store_row(out + i * n, scratch, n);
  }
}

template <typename T>
void reduce_gradients(const NormGradientArgs<T>& a, const ChannelLists<Sum<T>>& channels,
                      int64_t begin, int64_t end, PartSums<Sum<T>> part, Sum<T>* scratch) {
  using S = Sum<T>;
  const int64_t n = a.forward.channels;
  fill_row(part.first, S(0), n);
  fill_row(part.second, S(0), n);
  S *FL_RESTRICT sums = part.first, *FL_RESTRICT products = part.second;
  for (int64_t i = begin; i < end; ++i) {
    gradient_of_row(a, channels, i, scratch);
    const T* FL_RESTRICT row = a.forward.features + i * n;
    const S *FL_RESTRICT g = scratch, *FL_RESTRICT mean = channels.mean;
    for (int64_t c = 0; c < n; ++c) {
      sums[c] += g[c];
      products[c] += g[c] * (sparse::widen(row[c]) - mean[c]);
    }
    if (a.g_residual != nullptr) store_row(a.g_residual + i * n, scratch, n);
  }
}

template <typename T>
void gradient_rows(const NormGradientArgs<T>& a, const ChannelLists<Sum<T>>& channels,
                   int64_t begin, int64_t end, Sum<T>* scratch) {
  using S = Sum<T>;
  const int64_t n = a.forward.channels;
  for (int64_t i = begin; i < end; ++i) {
    gradient_of_row(a, channels, i, scratch);
    const T* FL_RESTRICT row = a.forward.features + i * n;
    const S *FL_RESTRICT g = scratch, *FL_RESTRICT mean = channels.mean,
                         *FL_RESTRICT scale = channels.scale, *FL_RESTRICT offset = channels.offset,
                         *FL_RESTRICT slope = channels.slope;
    T* FL_RESTRICT to = a.g_features + i * n;
    for (int64_t c = 0; c < n; ++c)
      sparse::narrow(scale[c] * (g[c] - offset[c] - (sparse::widen(row[c]) - mean[c]) * slope[c]),
                     to[c]);
  }
}

#define FL_INSTANTIATE(T)                                                                          \
  template void reduce_moments(const StatisticsArgs<T>&, int64_t, int64_t, PartSums<Sum<T>>,       \
                               Sum<T>*);                                                           \
  template void normalise_rows(const NormArgs<T>&, const ChannelLists<Sum<T>>&, T*, int64_t,       \
                               int64_t, Sum<T>*);                                                  \
  template void reduce_gradients(const NormGradientArgs<T>&, const ChannelLists<Sum<T>>&, int64_t, \
                                 int64_t, PartSums<Sum<T>>, Sum<T>*);                              \
  template void gradient_rows(const NormGradientArgs<T>&, const ChannelLists<Sum<T>>&, int64_t,    \
                              int64_t, Sum<T>*);
FL_INSTANTIATE(float)
FL_INSTANTIATE(double)
FL_INSTANTIATE(sparse::Half)
FL_INSTANTIATE(sparse::BFloat16)
#undef FL_INSTANTIATE

}  // namespace FL_ISA
}  // namespace fl
