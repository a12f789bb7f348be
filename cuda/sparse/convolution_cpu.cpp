// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of convolution: taps in order, so that every sum has one order.
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/convolution_entry.h"

namespace fl::sparse {
namespace {

// Whoever calls the operator directly may hand over anything: rows are used as addresses.
void check_pairs(const MapInput& map, int64_t n_in, int64_t n_out, const char* op) {
  STD_TORCH_CHECK(map.has_pairs(), op, ": starts: expected [K + 1], got no pairs");
  const int64_t n_pairs = map.in_rows.size(0);
  const int64_t* starts = input<int64_t>(map.starts);
  const int32_t* in_rows = input<int32_t>(map.in_rows);
  const int32_t* out_rows = input<int32_t>(map.out_rows);
  bool good = starts[0] == 0 && starts[map.n_taps] == n_pairs;
  for (int64_t t = 0; t < map.n_taps; ++t) good &= starts[t] <= starts[t + 1];
  STD_TORCH_CHECK(good, op, ": starts: expected to ascend from 0 to ", n_pairs, " pairs");
  for (int64_t p = 0; p < n_pairs; ++p)
    good &= in_rows[p] >= 0 && in_rows[p] < n_in && out_rows[p] >= 0 && out_rows[p] < n_out;
  STD_TORCH_CHECK(good, op, ": in_rows, out_rows: expected rows below ", n_in, " and ", n_out);
  for (int64_t t = 0; t < map.n_taps; ++t)
    for (int64_t p = starts[t] + 1; p < starts[t + 1]; ++p) good &= out_rows[p - 1] < out_rows[p];
  STD_TORCH_CHECK(good, op, ": out_rows: expected to ascend within a tap");
}

struct CpuConvolution {
  static void forward(const ConvolutionInput& in, const Tensor& out) {
    check_pairs(in.map, in.n_in, in.n_out, "sparse_conv");
    dispatch_element(in.features, [&](auto t) { convolve<decltype(t)>(in, out); });
  }

  static void weight_gradient(const WeightGradientInput& in, const Tensor& out) {
    check_pairs(in.map, in.n_in, in.n_out, "sparse_conv_weight_gradient");
    dispatch_element(in.features, [&](auto t) { outer_products<decltype(t)>(in, out); });
  }

 private:
  template <typename T>
  static void convolve(const ConvolutionInput& in, const Tensor& out) {
    using A = Sum<T>;
    const int64_t c_in = in.channels_in, c_out = in.channels_out;
    const int64_t own_in = in.weight.size(1), own_out = c_out / in.groups;
    std::vector<A> sums(in.n_out * c_out, A(0));
    const int64_t* starts = input<int64_t>(in.map.starts);
    for (int64_t t = 0; t < in.map.n_taps; ++t)
      for (int64_t p = starts[t]; p < starts[t + 1]; ++p) {
        const T* row = input<T>(in.features) + input<int32_t>(in.map.in_rows)[p] * c_in;
        A* sum = sums.data() + input<int32_t>(in.map.out_rows)[p] * c_out;
        const T* w = input<T>(in.weight) + t * own_in * c_out;
        for (int64_t k = 0; k < own_in; ++k)
          for (int64_t c = 0; c < c_out; ++c)
            sum[c] += widen(row[c / own_out * own_in + k]) * widen(w[k * c_out + c]);
      }
    const T* bias = optional_input<T>(in.bias);
    const T* residual = optional_input<T>(in.residual);
    for (int64_t i = 0; i < in.n_out * c_out; ++i) {
      A x = sums[i];
      if (bias != nullptr) x += widen(bias[i % c_out]);
      if (residual != nullptr) x += widen(residual[i]);
      output<T>(out)[i] = narrow<T>(activate(in.activation, x, static_cast<A>(in.slope)));
    }
  }

  template <typename T>
  static void outer_products(const WeightGradientInput& in, const Tensor& out) {
    using A = Sum<T>;
    const int64_t c_in = in.channels_in, c_out = in.channels_out;
    const int64_t own_in = c_in / in.groups, own_out = c_out / in.groups;
    const int64_t* starts = input<int64_t>(in.map.starts);
    std::vector<A> sums(own_in * c_out);
    for (int64_t t = 0; t < in.map.n_taps; ++t) {
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t p = starts[t]; p < starts[t + 1]; ++p) {
        const T* row = input<T>(in.features) + input<int32_t>(in.map.in_rows)[p] * c_in;
        const T* g = input<T>(in.gradient) + input<int32_t>(in.map.out_rows)[p] * c_out;
        for (int64_t k = 0; k < own_in; ++k)
          for (int64_t c = 0; c < c_out; ++c)
            sums[k * c_out + c] += widen(row[c / own_out * own_in + k]) * widen(g[c]);
      }
      for (int64_t i = 0; i < own_in * c_out; ++i)
        output<T>(out)[t * own_in * c_out + i] = narrow<T>(sums[i]);
    }
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_conv", TORCH_BOX(&sparse_conv<CpuConvolution>));
  m.impl("sparse_conv_weight_gradient", TORCH_BOX(&sparse_conv_weight_gradient<CpuConvolution>));
}

}  // namespace fl::sparse
