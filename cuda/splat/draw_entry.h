// SPDX-License-Identifier: Apache-2.0
//
// splat_draw: colours, binning and blending of projected splats as one operator. It computes what
// the three compute one after the other; called once, it spares a small scene two thirds of what
// the calls cost, and on a GPU the colours are computed while the host waits for the number of
// (splat, tile) pairs.
#pragma once

#include <array>
#include <tuple>

#include "splat/draw_parts.h"

namespace fl::splat {

using DrawResult =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using DrawGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Tensor view_as(const Tensor& tensor, std::initializer_list<int64_t> sizes) {
  return torch::stable::view(tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor),
                             {sizes.begin(), sizes.size()});
}

struct DrawSizes {
  int64_t B, C, N, D, I, M;
};

inline DrawSizes check_draw(int64_t degree, const std::optional<Tensor>& means,
                            const std::optional<Tensor>& viewmats, const Tensor& colors,
                            const Tensor& radii, const Tensor& means2d, const char* op) {
  check_float(means2d, op, "means2d");
  STD_TORCH_CHECK(means2d.dim() == 4 && means2d.size(3) == 2, op,
                  ": means2d: expected shape [B, C, N, 2], got ", shape_text(means2d));
  DrawSizes s{means2d.size(0), means2d.size(1), means2d.size(2), 3, 0, 0};
  s.I = s.B * s.C;
  s.M = s.I * s.N;
  check_shape(radii, {s.B, s.C, s.N, 2}, op, "radii");
  if (degree >= 0) {
    STD_TORCH_CHECK(means.has_value() && viewmats.has_value(), op,
                    ": means, viewmats: expected both with spherical harmonics");
    check_shape(*means, {s.B, s.N, 3}, op, "means");
    check_shape(*viewmats, {s.B, s.C, 4, 4}, op, "viewmats");
  } else {
    check_shape(colors, {s.B, s.C, s.N, -1}, op, "colors");
    s.D = colors.size(3);
    STD_TORCH_CHECK(s.D >= 1 && s.D <= 32, op, ": colors: expected 1 to 32 channels, got ", s.D);
  }
  return s;
}

inline void check_draw_rows(const DrawSizes& s, const Tensor& conics, const Tensor& opacities,
                            const char* op) {
  check_shape(conics, {s.B, s.C, s.N, 3}, op, "conics");
  if (opacities.dim() == 2)
    check_shape(opacities, {s.B, s.N}, op, "opacities");
  else
    check_shape(opacities, {s.B, s.C, s.N}, op, "opacities");
}

// Opacities that a scene's cameras share, once for each camera.
inline Tensor opacity_rows(const DrawSizes& s, const Tensor& opacities) {
  if (opacities.dim() == 3 || s.C == 1) return view_as(opacities, {s.M});
  Tensor rows = new_empty(opacities, {s.B, s.C, s.N});
  for (int64_t c = 0; c < s.C; ++c) {
    Tensor own = torch::stable::select(rows, 1, c);
    torch::stable::copy_(own, opacities);
  }
  return view_as(rows, {s.M});
}

inline BlendInputs draw_inputs(const DrawSizes& s, const Tensor& means2d, const Tensor& conics,
                               const Tensor& colors, const Tensor& opacities,
                               const std::optional<Tensor>& backgrounds,
                               const std::optional<Tensor>& masks, int64_t width, int64_t height,
                               int64_t tile_size, double alpha_cap) {
  BlendInputs in;
  in.means2d = view_as(means2d, {s.M, 2});
  in.conics = view_as(conics, {s.M, 3});
  in.colors = view_as(colors, {s.M, s.D});
  in.opacities = opacity_rows(s, opacities);
  in.backgrounds = backgrounds;
  in.masks = masks;
  in.width = width;
  in.height = height;
  in.tile_size = tile_size;
  in.alpha_cap = alpha_cap;
  return in;
}

inline DrawResult splat_draw(int64_t degree, std::optional<Tensor> means,
                             std::optional<Tensor> viewmats, Tensor colors, Tensor radii,
                             Tensor means2d, Tensor depths, Tensor conics, Tensor opacities,
                             std::optional<Tensor>, std::optional<Tensor> backgrounds,
                             std::optional<Tensor> masks, int64_t width, int64_t height,
                             int64_t tile_size, double alpha_cap, bool keep_state) {
  const char* op = "splat_draw";
  if (means2d.dim() == 3) {  // one scene, without its dimension
    DrawResult out =
        splat_draw(degree, lift(means), lift(viewmats), lift(colors), lift(radii), lift(means2d),
                   lift(depths), lift(conics), lift(opacities), std::nullopt, backgrounds, masks,
                   width, height, tile_size, alpha_cap, keep_state);
    std::get<3>(out) = drop(std::get<3>(out));
    return out;
  }
  const DrawSizes s = check_draw(degree, means, viewmats, colors, radii, means2d, op);
  check_draw_rows(s, conics, opacities, op);
  check_shape(depths, {s.B, s.C, s.N}, op, "depths");
  check_image_size(width, height, op);
  STD_TORCH_CHECK(tile_size >= 1 && tile_size <= 64, op,
                  ": tile_size: expected 1 to 64 pixels, got ", tile_size);
  const BinGrid grid{s.I, tile_size, (width + tile_size - 1) / tile_size,
                     (height + tile_size - 1) / tile_size};
  const Tensor flat_means2d = view_as(means2d, {s.M, 2}), flat_conics = view_as(conics, {s.M, 3});
  const Tensor flat_opacities = opacity_rows(s, opacities);
  Tensor shades = new_empty(means2d, {0});
  const auto shade = [&] {
    if (degree >= 0) shades = shade_here(degree, *means, *viewmats, colors, radii);
  };
  const auto [tiles_per_splat, flatten_ids, offsets, slots, starts] =
      bin_here(flat_means2d, view_as(radii, {s.M, 2}), view_as(depths, {s.M}), flat_conics,
               flat_opacities, grid, keep_state, shade);
  BlendInputs in = draw_inputs(s, flat_means2d, flat_conics, degree >= 0 ? shades : colors,
                               view_as(flat_opacities, {s.B, s.C, s.N}), backgrounds, masks, width,
                               height, tile_size, alpha_cap);
  in.offsets = offsets;
  in.flatten_ids = flatten_ids;
  const auto [render, alphas, state] = blend_here(in, keep_state);
  return {render, alphas, state, shades, tiles_per_splat, flatten_ids, offsets, slots, starts};
}

inline Tensor opacity_gradients(const DrawSizes& s, const Tensor& opacities, const Tensor& g) {
  if (opacities.dim() == 3) return view_as(g, {s.B, s.C, s.N});
  if (s.C == 1) return view_as(g, {s.B, s.N});
  const std::array<int64_t, 1> cameras{1};
  return torch::stable::sum(view_as(g, {s.B, s.C, s.N}), {{cameras.data(), 1}});
}

inline DrawGradients splat_draw_backward(
    int64_t degree, std::optional<Tensor> means, std::optional<Tensor> viewmats, Tensor colors,
    Tensor radii, Tensor means2d, Tensor conics, Tensor opacities,
    std::optional<Tensor> backgrounds, std::optional<Tensor> masks, int64_t width, int64_t height,
    int64_t tile_size, double alpha_cap, Tensor render, Tensor alphas, Tensor state, Tensor shades,
    Tensor flatten_ids, Tensor offsets, Tensor slots, Tensor starts, Tensor g_render,
    Tensor g_alphas, bool absgrad, bool needs_positions, bool needs_cameras) {
  const char* op = "splat_draw_backward";
  if (means2d.dim() == 3) {
    const auto [m, v, c, p, a, k, o] = splat_draw_backward(
        degree, lift(means), lift(viewmats), lift(colors), lift(radii), lift(means2d), lift(conics),
        lift(opacities), backgrounds, masks, width, height, tile_size, alpha_cap, render, alphas,
        state, degree >= 0 ? lift(shades) : shades, flatten_ids, offsets, slots, starts, g_render,
        g_alphas, absgrad, needs_positions, needs_cameras);
    return {drop(m), drop(v), drop(c), drop(p), drop(a), drop(k), drop(o)};
  }
  const DrawSizes s = check_draw(degree, means, viewmats, colors, radii, means2d, op);
  check_draw_rows(s, conics, opacities, op);
  if (degree >= 0) check_shape(shades, {s.B, s.C, s.N, 3}, op, "shades");
  BlendInputs in = draw_inputs(s, means2d, conics, degree >= 0 ? shades : colors, opacities,
                               backgrounds, masks, width, height, tile_size, alpha_cap);
  in.offsets = offsets;
  in.flatten_ids = flatten_ids;
  in.slots = slots;
  in.starts = starts;
  const auto [g_means2d, g_abs, g_conics, g_blended, g_opacities] =
      blend_backward_here(in, {render, alphas, state}, g_render, g_alphas, absgrad);
  const Tensor g_rgb = view_as(g_blended, {s.B, s.C, s.N, s.D});
  Tensor g_means = new_empty(means2d, {0}), g_viewmats = new_empty(means2d, {0});
  Tensor g_colors = g_rgb;
  if (degree >= 0)
    std::tie(g_means, g_viewmats, g_colors) =
        shade_backward_here(degree, *means, *viewmats, colors, radii, shades, g_rgb,
                            needs_positions || needs_cameras, needs_cameras);
  return {g_means,
          g_viewmats,
          g_colors,
          view_as(g_means2d, {s.B, s.C, s.N, 2}),
          absgrad ? view_as(g_abs, {s.B, s.C, s.N, 2}) : g_abs,
          view_as(g_conics, {s.B, s.C, s.N, 3}),
          opacity_gradients(s, opacities, g_opacities)};
}

}  // namespace fl::splat
