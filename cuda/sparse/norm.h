// SPDX-License-Identifier: Apache-2.0
//
// Batch normalisation of rows, with the residual sum and the activation that follow it:
//
//   z = (x - mean) * weight / sqrt(variance + eps) + bias + residual,   y = activation(z)
//
// Statistics are mean and squared deviations of few rows at a time, found in two passes over what
// the cache or the registers hold, and joined in a fixed order. No difference of large sums is
// ever taken: a mean far from zero costs no digits of the variance.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "sparse/convolution.h"
#include "sparse/element.h"

namespace fl::sparse {

// Of `count` rows: the mean, and the sum of squared deviations from it.
template <typename S>
struct Moments {
  S mean, squares;
};

// How two lists of rows share their joint mean.
template <typename S>
struct JoinWeights {
  S mean, squares;

  FL_HD JoinWeights(int64_t before, int64_t next)
      : mean(static_cast<S>(next) / static_cast<S>(before + next > 0 ? before + next : 1)),
        squares(static_cast<S>(before) * mean) {}
};

template <typename S>
FL_HD void join(Moments<S>& before, const Moments<S>& next, const JoinWeights<S>& weights) {
  const S distance = next.mean - before.mean;
  before.mean += distance * weights.mean;
  before.squares += next.squares + distance * distance * weights.squares;
}

// What a batch leaves behind for evaluation.
template <typename S>
struct RunningArgs {
  S* mean;  // [channels]; null: none is kept
  S* variance;
  int64_t* tracked;  // batches so far; null: not counted
  bool cumulative;   // the plain mean of all batches
  double momentum;

  FL_HD S share() const {
    return cumulative ? S(1) / static_cast<S>(*tracked + 1) : static_cast<S>(momentum);
  }
};

template <typename T>
struct StatisticsArgs {
  const T* features;       // [n, channels]
  Sum<T>*mean, *variance;  // [channels]
  RunningArgs<Sum<T>> running;
  int64_t n, channels;

  // The running variance is that of the population, the batch's own that of its rows.
  FL_HD void store(int64_t channel, const Moments<Sum<T>>& all, Sum<T> share) const {
    using S = Sum<T>;
    mean[channel] = all.mean;
    variance[channel] = all.squares / static_cast<S>(n);
    if (running.mean == nullptr) return;
    const S unbiased = all.squares / static_cast<S>(n > 1 ? n - 1 : 1);
    running.mean[channel] += share * (all.mean - running.mean[channel]);
    running.variance[channel] += share * (unbiased - running.variance[channel]);
  }
};

// (x - mean) * scale + shift. Multiplied out it would lose what a large mean has beyond x.
template <typename S>
struct ChannelScale {
  S mean, scale, shift;

  FL_HD S operator()(S x) const { return (x - mean) * scale + shift; }
};

// dL/dx = scale * (g - offset - (x - mean) * slope)
template <typename S>
struct ChannelGradient {
  S offset, slope;
};

template <typename T>
struct NormArgs {
  using S = Sum<T>;

  const T* features;                         // [n, channels]
  const S *mean, *variance, *weight, *bias;  // [channels]; the last two may be null: 1 and 0
  const T* residual;                         // [n, channels] or null
  S eps, slope;
  Activation activation;
  int64_t n, channels;

  FL_HD S inverse_deviation(int64_t channel) const {
    using std::sqrt;
    return S(1) / sqrt(variance[channel] + eps);
  }
  FL_HD ChannelScale<S> scale_of(int64_t channel) const {
    const S inverse = inverse_deviation(channel);
    return {mean[channel], weight == nullptr ? inverse : inverse * weight[channel],
            bias == nullptr ? S(0) : bias[channel]};
  }
};

template <typename T>
struct NormGradientArgs {
  using S = Sum<T>;

  NormArgs<T> forward;
  const T* gradient;     // [n, channels], of y
  const T* out;          // y, where the activation's gradient is taken from it; else null
  T* g_features;         // [n, channels]
  T* g_residual;         // the same, the gradient of z; null: not asked for
  S *g_weight, *g_bias;  // [channels]
  bool of_batch;         // mean and variance are those of the features

  FL_HD void store_sums(int64_t channel, S sum, S sum_of_products) const {
    g_bias[channel] = sum;
    g_weight[channel] = sum_of_products * forward.inverse_deviation(channel);
  }
  // For the second pass: where the gradient of z was kept, it is the gradient that there is.
  NormGradientArgs from_gradient_of_z() const {
    NormGradientArgs next = *this;
    if (g_residual == nullptr) return next;
    next.gradient = g_residual;
    next.forward.activation = Activation::none;
    return next;
  }
  FL_HD ChannelGradient<S> gradient_of(int64_t channel) const {
    if (!of_batch) return {S(0), S(0)};
    const S n = static_cast<S>(forward.n);
    return {g_bias[channel] / n, g_weight[channel] * forward.inverse_deviation(channel) / n};
  }
};

// The gradient of z from y, of the activations whose y says enough.
template <typename S>
FL_HD S activation_vjp_of_output(Activation kind, S y, S slope, S gradient) {
  switch (kind) {
    case Activation::relu:
      return y <= S(0) ? S(0) : gradient;
    case Activation::leaky_relu:
      return y > S(0) ? gradient : gradient * slope;
    case Activation::sigmoid:
      return gradient * y * (S(1) - y);
    default:
      return gradient;
  }
}

template <typename S>
FL_HD S gelu_derivative(S z) {
  using std::erf;
  using std::exp;
  const S density = S(0.39894228040143267794) * exp(S(-0.5) * z * z);
  return S(0.5) * (S(1) + erf(z * S(0.70710678118654752440))) + z * density;
}

template <typename S>
FL_HD S silu_derivative(S z) {
  const S y = sigmoid(z);
  return y * (S(1) + z * (S(1) - y));
}

template <typename S>
FL_HD S activation_vjp(Activation kind, S z, S slope, S gradient) {
  switch (kind) {
    case Activation::silu:
      return gradient * silu_derivative(z);
    case Activation::gelu:
      return gradient * gelu_derivative(z);
    case Activation::sigmoid:
      return activation_vjp_of_output(kind, sigmoid(z), slope, gradient);
    default:
      return activation_vjp_of_output(kind, z, slope, gradient);
  }
}

}  // namespace fl::sparse
