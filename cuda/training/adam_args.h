// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the optimiser step, checked once for both backends.
#pragma once

#include <cmath>
#include <vector>

#include "core/check.h"
#include "training/adam.h"

namespace fl::training {

// Tensors are rows x width; a visibility mask has one entry a row.
template <typename T>
struct AdamTensor {
  T *parameter, *average, *square;
  const T* gradient;
  int64_t rows, width;
  AdamStep<T> step;
};

struct AdamArgs {
  const std::vector<Tensor>&params, &grads, &averages, &squares;
  const std::vector<double>& rates;
  double beta1, beta2, eps;
  int64_t step;
  const std::optional<Tensor>& visible;
};

inline void check_adam_tensor(const Tensor& tensor, const Tensor& param, const char* name, size_t i,
                              bool written) {
  const std::string argument = std::string(name) + "[" + std::to_string(i) + "]";
  bool same = tensor.dim() == param.dim();
  for (int64_t d = 0; same && d < param.dim(); ++d) same = tensor.size(d) == param.size(d);
  STD_TORCH_CHECK(same, "fused_adam_: ", argument, ": expected shape ", shape_text(param), ", got ",
                  shape_text(tensor));
  check_dtype(tensor, param.scalar_type(), "fused_adam_", argument.c_str());
  check_same_device(tensor, param, "fused_adam_", argument.c_str());
  STD_TORCH_CHECK(!written || tensor.is_contiguous(), "fused_adam_: ", argument,
                  ": expected a contiguous tensor, because it is updated in place");
}

inline void check_adam(const AdamArgs& a) {
  const size_t n = a.params.size();
  STD_TORCH_CHECK(
      a.grads.size() == n && a.averages.size() == n && a.squares.size() == n && a.rates.size() == n,
      "fused_adam_: grads, exp_avgs, exp_avg_sqs, learning_rates: expected ", n,
      " entries as in params, got ", a.grads.size(), ", ", a.averages.size(), ", ",
      a.squares.size(), " and ", a.rates.size());
  STD_TORCH_CHECK(a.step >= 1, "fused_adam_: step: expected at least 1, got ", a.step);
  STD_TORCH_CHECK(a.beta1 >= 0 && a.beta1 < 1 && a.beta2 >= 0 && a.beta2 < 1,
                  "fused_adam_: betas: expected values in [0, 1), got ", a.beta1, " and ", a.beta2);
  for (size_t i = 0; i < n; ++i) {
    const Tensor& p = a.params[i];
    check_float(p, "fused_adam_", "params");
    check_same_device(p, a.params[0], "fused_adam_", "params");
    check_adam_tensor(p, p, "params", i, true);
    check_adam_tensor(a.grads[i], p, "grads", i, false);
    check_adam_tensor(a.averages[i], p, "exp_avgs", i, true);
    check_adam_tensor(a.squares[i], p, "exp_avg_sqs", i, true);
    if (!a.visible.has_value()) continue;
    STD_TORCH_CHECK(p.dim() >= 1, "fused_adam_: params[", i,
                    "]: expected rows to apply `visible` to, got a scalar");
    check_shape(*a.visible, {p.size(0)}, "fused_adam_", "visible");
    check_dtype(*a.visible, ScalarType::Bool, "fused_adam_", "visible");
    check_same_device(*a.visible, p, "fused_adam_", "visible");
  }
}

// `gradient` must be contiguous.
template <typename T>
AdamTensor<T> adam_tensor(const AdamArgs& a, size_t i, const Tensor& gradient) {
  const Tensor& p = a.params[i];
  const double bias1 = 1.0 - std::pow(a.beta1, static_cast<double>(a.step));
  const double bias2 = 1.0 - std::pow(a.beta2, static_cast<double>(a.step));
  const AdamStep<T> step{static_cast<T>(1.0 - a.beta1),    static_cast<T>(a.beta2),
                         static_cast<T>(1.0 - a.beta2),    static_cast<T>(a.rates[i] / bias1),
                         static_cast<T>(std::sqrt(bias2)), static_cast<T>(a.eps)};
  const int64_t rows = p.dim() > 0 ? p.size(0) : 1;
  return {output<T>(p),
          output<T>(a.averages[i]),
          output<T>(a.squares[i]),
          input<T>(gradient),
          rows,
          rows > 0 ? p.numel() / rows : 0,
          step};
}

}  // namespace fl::training
