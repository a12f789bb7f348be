// SPDX-License-Identifier: Apache-2.0
//
// Scans along rays as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include "volume/rays_entry.h"
#include "volume/scan.h"

namespace fl::volume {

template <typename Backend>
Tensor volume_scan(Tensor inputs, std::optional<Tensor> packed_info, bool product, bool exclusive,
                   bool reverse) {
  const char* op = "volume_scan";
  check_float(inputs, op, "inputs");
  make_dense(inputs);
  const Rays rays = make_rays(inputs, packed_info, op, "inputs");
  const Tensor outputs = new_samples(inputs, Backend::covers(rays, op));
  dispatch_float(inputs, [&](auto zero) {
    using T = decltype(zero);
    const T* in = input<T>(inputs);
    T* out = output<T>(outputs);
    if (product)
      Backend::run(rays, ScanWork<Product<T>, T>{in, out, exclusive, reverse}, inputs);
    else
      Backend::run(rays, ScanWork<Sums<T, 1>, T>{in, out, exclusive, reverse}, inputs);
  });
  return outputs;
}

template <typename Backend>
Tensor volume_product_backward(Tensor inputs, std::optional<Tensor> packed_info, bool exclusive,
                               Tensor g_outputs) {
  const char* op = "volume_product_backward";
  check_float(inputs, op, "inputs");
  check_like(g_outputs, inputs, op, "g_outputs");
  dense_all(inputs, g_outputs);
  const Rays rays = make_rays(inputs, packed_info, op, "inputs");
  const Tensor g_inputs = new_samples(inputs, Backend::covers(rays, op));
  dispatch_float(inputs, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(rays,
                 ProductBackwardWork<T>{input<T>(inputs), input<T>(g_outputs), output<T>(g_inputs),
                                        exclusive},
                 inputs);
  });
  return g_inputs;
}

}  // namespace fl::volume
