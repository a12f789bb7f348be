// SPDX-License-Identifier: Apache-2.0
//
// Batch normalisation as torch sees it: checks and outputs, with the work left to a Backend.
#pragma once

#include <optional>
#include <tuple>

#include "core/check.h"
#include "sparse/element_entry.h"
#include "sparse/norm.h"

namespace fl::sparse {

inline void check_channels(const Tensor& values, const Tensor& features, const char* op,
                           const char* argument) {
  check_shape(values, {features.size(1)}, op, argument);
  check_dtype(values, sum_dtype(features), op, argument);
  check_same_device(values, features, op, argument);
}

inline void check_channels(const std::optional<Tensor>& values, const Tensor& features,
                           const char* op, const char* argument) {
  if (values.has_value()) check_channels(*values, features, op, argument);
}

inline void check_rows_like(const std::optional<Tensor>& rows, const Tensor& features,
                            const char* op, const char* argument) {
  if (!rows.has_value()) return;
  check_shape(*rows, {features.size(0), features.size(1)}, op, argument);
  check_dtype(*rows, features.scalar_type(), op, argument);
  check_same_device(*rows, features, op, argument);
}

// What was written to a dense copy goes to the tensor that it is a copy of.
inline void put_back(const std::optional<Tensor>& dense, std::optional<Tensor> kept) {
  if (kept.has_value() && !kept->is_contiguous()) torch::stable::copy_(*kept, *dense);
}

template <typename T>
T* optional_output(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? output<T>(*tensor) : nullptr;
}

// Without rows there are no statistics: zeros are given, and nothing is learnt from them.
template <typename Backend>
std::tuple<Tensor, Tensor> sparse_batch_statistics(Tensor features,
                                                   std::optional<Tensor> running_mean,
                                                   std::optional<Tensor> running_var,
                                                   std::optional<Tensor> tracked,
                                                   std::optional<double> momentum) {
  const char* op = "sparse_batch_statistics";
  check_element(features, op, "features");
  check_shape(features, {-1, -1}, op, "features");
  check_channels(running_mean, features, op, "running_mean");
  check_channels(running_var, features, op, "running_var");
  STD_TORCH_CHECK(running_mean.has_value() == running_var.has_value(), op,
                  ": running_var: expected one beside running_mean, and none without");
  if (tracked.has_value()) {
    check_shape(*tracked, {}, op, "tracked");
    check_dtype(*tracked, ScalarType::Long, op, "tracked");
    check_same_device(*tracked, features, op, "tracked");
  }
  STD_TORCH_CHECK(momentum.has_value() || tracked.has_value() || !running_mean.has_value(), op,
                  ": momentum: expected a number without a count of batches");
  std::optional<Tensor> dense_mean = running_mean, dense_var = running_var;
  dense_all(features, dense_mean, dense_var);
  const int64_t n = features.size(0), channels = features.size(1);
  STD_TORCH_CHECK(n != 1, op, ": features: expected more than 1 value per channel, got 1 row");
  if (n == 0) {
    const Tensor zeros = new_zeros(features, {channels}, sum_dtype(features));
    return {zeros, new_zeros(features, {channels}, sum_dtype(features))};
  }
  Tensor mean = new_empty(features, {channels}, sum_dtype(features));
  Tensor variance = new_empty(features, {channels}, sum_dtype(features));
  dispatch_element(features, [&](auto t) {
    using T = decltype(t);
    using S = Sum<T>;
    const RunningArgs<S> running{optional_output<S>(dense_mean), optional_output<S>(dense_var),
                                 optional_output<int64_t>(tracked), !momentum.has_value(),
                                 momentum.value_or(0.0)};
    Backend::statistics(StatisticsArgs<T>{input<T>(features), output<S>(mean), output<S>(variance),
                                          running, n, channels},
                        features);
  });
  put_back(dense_mean, running_mean);
  put_back(dense_var, running_var);
  return {mean, variance};
}

struct NormInput {
  Tensor features;
  std::optional<Tensor> weight, bias, residual;
  double eps, slope;
  int64_t activation;
  Tensor mean = {}, variance = {};

  void check(const char* op) {
    check_element(features, op, "features");
    check_shape(features, {-1, -1}, op, "features");
    check_channels(weight, features, op, "weight");
    check_channels(bias, features, op, "bias");
    check_rows_like(residual, features, op, "residual");
    STD_TORCH_CHECK(activation >= 0 && activation < kActivations, op,
                    ": activation: expected 0 to ", kActivations - 1, ", got ", activation);
    dense_all(features, weight, bias, residual);
  }

  void set_statistics(const Tensor& mean_in, const Tensor& variance_in, const char* op) {
    mean = mean_in, variance = variance_in;
    check_channels(mean, features, op, "mean");
    check_channels(variance, features, op, "variance");
    dense_all(mean, variance);
  }

  template <typename T>
  NormArgs<T> args() const {
    using S = Sum<T>;
    return {input<T>(features),        input<S>(mean),          input<S>(variance),
            optional_input<S>(weight), optional_input<S>(bias), optional_input<T>(residual),
            static_cast<S>(eps),       static_cast<S>(slope),   static_cast<Activation>(activation),
            features.size(0),          features.size(1)};
  }
};

template <typename Backend>
Tensor normalised(const NormInput& in) {
  Tensor out = new_empty(in.features, {in.features.size(0), in.features.size(1)});
  if (out.numel() == 0) return out;
  dispatch_element(in.features, [&](auto t) {
    using T = decltype(t);
    Backend::forward(in.template args<T>(), output<T>(out), in.features);
  });
  return out;
}

// Whether mean and variance are those of the features matters to the gradient alone.
template <typename Backend>
Tensor sparse_batch_norm(Tensor features, Tensor mean, Tensor variance,
                         std::optional<Tensor> weight, std::optional<Tensor> bias,
                         std::optional<Tensor> residual, bool, double eps, int64_t activation,
                         double slope) {
  const char* op = "sparse_batch_norm";
  NormInput in{features, weight, bias, residual, eps, slope, activation};
  in.check(op);
  in.set_statistics(mean, variance, op);
  return normalised<Backend>(in);
}

// All is checked before the running statistics change.
template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> sparse_batch_norm_training(
    Tensor features, std::optional<Tensor> running_mean, std::optional<Tensor> running_var,
    std::optional<Tensor> tracked, std::optional<Tensor> weight, std::optional<Tensor> bias,
    std::optional<Tensor> residual, std::optional<double> momentum, double eps, int64_t activation,
    double slope) {
  const char* op = "sparse_batch_norm_training";
  NormInput in{features, weight, bias, residual, eps, slope, activation};
  in.check(op);
  const auto [mean, variance] =
      sparse_batch_statistics<Backend>(in.features, running_mean, running_var, tracked, momentum);
  in.set_statistics(mean, variance, op);
  return {normalised<Backend>(in), mean, variance};
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> sparse_batch_norm_backward(
    Tensor gradient, Tensor features, Tensor mean, Tensor variance, std::optional<Tensor> weight,
    std::optional<Tensor> bias, std::optional<Tensor> residual, std::optional<Tensor> out,
    bool of_batch, double eps, int64_t activation, double slope, bool wants_residual) {
  const char* op = "sparse_batch_norm_backward";
  NormInput in{features, weight, bias, residual, eps, slope, activation};
  in.check(op);
  in.set_statistics(mean, variance, op);
  check_rows_like(gradient, in.features, op, "gradient");
  check_rows_like(out, in.features, op, "out");
  dense_all(gradient, out);
  const int64_t n = in.features.size(0), channels = in.features.size(1);
  Tensor g_features = new_empty(in.features, {n, channels});
  Tensor g_residual = new_empty(in.features, {wants_residual ? n : 0, channels});
  if (n == 0 || channels == 0)
    return {g_features, new_zeros(in.mean, {channels}), new_zeros(in.mean, {channels}), g_residual};
  Tensor g_weight = new_empty(in.mean, {channels}), g_bias = new_empty(in.mean, {channels});
  dispatch_element(in.features, [&](auto t) {
    using T = decltype(t);
    using S = Sum<T>;
    Backend::backward(
        NormGradientArgs<T>{in.template args<T>(), input<T>(gradient), optional_input<T>(out),
                            output<T>(g_features), wants_residual ? output<T>(g_residual) : nullptr,
                            output<S>(g_weight), output<S>(g_bias), of_batch},
        in.features);
  });
  return {g_features, g_weight, g_bias, g_residual};
}

}  // namespace fl::sparse
