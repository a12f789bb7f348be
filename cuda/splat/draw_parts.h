// SPDX-License-Identifier: Apache-2.0
//
// What a backend offers to splat_draw: its colours, binning and blending as plain functions. Each
// library holds one backend, which defines them: bin_cpu.cpp or bin.cu, and so on.
#pragma once

#include <functional>

#include "splat/bin_entry.h"
#include "splat/blend_entry.h"

namespace fl::splat {

Tensor shade_here(int64_t degree, const Tensor& means, const Tensor& viewmats,
                  const Tensor& coefficients, const Tensor& radii);

std::tuple<Tensor, Tensor, Tensor> shade_backward_here(int64_t degree, const Tensor& means,
                                                       const Tensor& viewmats,
                                                       const Tensor& coefficients,
                                                       const Tensor& radii, const Tensor& colors,
                                                       const Tensor& g_colors, bool needs_positions,
                                                       bool needs_cameras);

BinResult bin_here(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                   const Tensor& conics, const Tensor& opacities, const BinGrid& grid,
                   bool with_slots, const std::function<void()>& between);

BlendResult blend_here(const BlendInputs& in, bool keep_state);

BlendedGradients blend_backward_here(const BlendInputs& in, const BlendResult& out,
                                     const Tensor& g_render, const Tensor& g_alphas, bool absgrad);

}  // namespace fl::splat
