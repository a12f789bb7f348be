// SPDX-License-Identifier: Apache-2.0
//
// The blending operators as torch sees them: checks, outputs and types, with the work left to a
// Backend, CPU or CUDA; and what both backends do for one splat and one pixel.
#pragma once

#include <limits>
#include <tuple>

#include "core/check.h"
#include "splat/bin.h"
#include "splat/blend.h"

namespace fl::splat {

struct BlendSizes {
  int64_t I, M, D, P, tile_width, tile_height;
};

// The tensors that every blending operator shares. `offsets` [I, th, tw] holds where each tile's
// run in flatten_ids starts; a run ends where the next starts, the last at P.
inline BlendSizes check_blend(const Tensor& means2d, const Tensor& conics, const Tensor* colors,
                              const Tensor& opacities, const std::optional<Tensor>& backgrounds,
                              const std::optional<Tensor>& masks, int64_t width, int64_t height,
                              int64_t tile_size, const Tensor& offsets, const Tensor& flatten_ids,
                              const char* op) {
  check_float(means2d, op, "means2d");
  STD_TORCH_CHECK(means2d.dim() == 2 && means2d.size(1) == 2, op,
                  ": means2d: expected shape [M, 2], got ", shape_text(means2d));
  const int64_t M = means2d.size(0);
  check_shape(conics, {M, 3}, op, "conics");
  check_shape(opacities, {M}, op, "opacities");
  check_dtype(conics, means2d.scalar_type(), op, "conics");
  check_dtype(opacities, means2d.scalar_type(), op, "opacities");
  check_same_device(conics, means2d, op, "conics");
  check_same_device(opacities, means2d, op, "opacities");
  int64_t D = 0;
  if (colors != nullptr) {
    STD_TORCH_CHECK(colors->dim() == 2 && colors->size(0) == M && colors->size(1) > 0, op,
                    ": colors: expected shape [", M, ", D], got ", shape_text(*colors));
    D = colors->size(1);
    check_dtype(*colors, means2d.scalar_type(), op, "colors");
    check_same_device(*colors, means2d, op, "colors");
  }
  check_image_size(width, height, op);
  STD_TORCH_CHECK(tile_size >= 1 && tile_size <= 64, op,
                  ": tile_size: expected 1 to 64 pixels, got ", tile_size);
  const int64_t tile_width = (width + tile_size - 1) / tile_size;
  const int64_t tile_height = (height + tile_size - 1) / tile_size;
  STD_TORCH_CHECK(offsets.dim() == 3, op, ": offsets: expected shape [I, ", tile_height, ", ",
                  tile_width, "], got ", shape_text(offsets));
  const int64_t I = offsets.size(0);
  check_shape(offsets, {I, tile_height, tile_width}, op, "offsets");
  check_dtype(offsets, ScalarType::Int, op, "offsets");
  check_shape(flatten_ids, {-1}, op, "flatten_ids");
  check_dtype(flatten_ids, ScalarType::Int, op, "flatten_ids");
  check_same_device(offsets, means2d, op, "offsets");
  check_same_device(flatten_ids, means2d, op, "flatten_ids");
  if (backgrounds.has_value()) {
    check_shape(*backgrounds, {I, D}, op, "backgrounds");
    check_dtype(*backgrounds, means2d.scalar_type(), op, "backgrounds");
    check_same_device(*backgrounds, means2d, op, "backgrounds");
  }
  if (masks.has_value()) {
    check_shape(*masks, {I, tile_height, tile_width}, op, "masks");
    check_dtype(*masks, ScalarType::Bool, op, "masks");
    check_same_device(*masks, means2d, op, "masks");
  }
  return {I, M, D, flatten_ids.numel(), tile_width, tile_height};
}

// Rows for the gradients of pairs, grouped by splat (bin_entry.h says how), if the caller has them.
inline void check_slots(const std::optional<Tensor>& slots, const std::optional<Tensor>& starts,
                        const Tensor& like, const BlendSizes& s, const char* op) {
  STD_TORCH_CHECK(slots.has_value() == starts.has_value(), op,
                  ": expected slots and starts together, or neither");
  if (!slots.has_value()) return;
  check_shape(*slots, {s.P}, op, "slots");
  check_dtype(*slots, ScalarType::Int, op, "slots");
  check_same_device(*slots, like, op, "slots");
  check_same_device(*starts, like, op, "starts");
  check_shape(*starts, {s.M + 1}, op, "starts");
  check_dtype(*starts, ScalarType::Long, op, "starts");
}

struct TileLayout {
  BlendSizes s;
  int64_t width, height, tile_size;
  const int32_t* offsets;
  const bool* masks;

  FL_HD int64_t tiles_per_image() const { return s.tile_width * s.tile_height; }
  FL_HD int64_t tiles() const { return s.I * tiles_per_image(); }
  FL_HD int64_t begin(int64_t tile) const { return offsets[tile]; }
  FL_HD int64_t end(int64_t tile) const { return tile + 1 < tiles() ? offsets[tile + 1] : s.P; }
  FL_HD int64_t image(int64_t tile) const { return tile / tiles_per_image(); }
  FL_HD int x0(int64_t tile) const { return static_cast<int>(tile % s.tile_width * tile_size); }
  FL_HD int y0(int64_t tile) const {
    return static_cast<int>(tile % tiles_per_image() / s.tile_width * tile_size);
  }
  FL_HD int columns(int64_t tile) const {
    return static_cast<int>(minimum(tile_size, width - x0(tile)));
  }
  FL_HD int rows(int64_t tile) const {
    return static_cast<int>(minimum(tile_size, height - y0(tile)));
  }
};

template <typename T>
struct BlendArgs {
  const T *means2d, *conics, *colors, *opacities, *backgrounds;
  const int32_t* ids;
  T alpha_cap;
};

template <typename T>
struct BlendOutputs {
  const T *render, *alphas, *g_render, *g_alphas;
  const int32_t* state;  // what the forward pass of the same backend kept
  int64_t state_size;
};

template <typename T>
struct BlendInputGradients {
  T *means2d, *means2d_abs, *conics, *colors, *opacities;  // means2d_abs may be null
};

// Null where the caller has only offsets and flatten_ids.
struct BlendLists {
  const int32_t* slots;
  const int64_t* starts;
};

template <typename T>
FL_HD Step evaluate(const BlendArgs<T>& a, int64_t i, T px, T py, T transmittance, Fragment<T>& f) {
  return evaluate_fragment(
      footprint(a.conics[3 * i], a.conics[3 * i + 1], a.conics[3 * i + 2], a.opacities[i]),
      px - a.means2d[2 * i], py - a.means2d[2 * i + 1], a.alpha_cap, transmittance, f);
}

// visit(splat) for each splat that blends into pixel (x, y), in batches [range_start, range_end)
// of tile_size^2 entries of the tile's list.
template <typename T, typename Visit>
FL_HD void for_blended(const BlendArgs<T>& a, const TileLayout& layout, int64_t tile, int x, int y,
                       int64_t range_start, int64_t range_end, T transmittance,
                       const Visit& visit) {
  const int64_t batch = layout.tile_size * layout.tile_size, first = layout.begin(tile);
  const int64_t end = minimum(layout.end(tile), first + range_end * batch);
  for (int64_t k = first + range_start * batch; k < end; ++k) {
    Fragment<T> f;
    const Step step = evaluate(a, a.ids[k], x + T(0.5), y + T(0.5), transmittance, f);
    if (step == Step::stop) return;
    if (step == Step::skip) continue;
    visit(a.ids[k]);
    transmittance = f.next;
  }
}

struct IndexLists {
  Tensor splat_ids, pixel_ids, image_ids;
  int64_t *splats, *pixels, *images;

  FL_HD void store(int64_t at, int64_t splat, int64_t pixel, int64_t pixels_per_image) const {
    splats[at] = splat;
    pixels[at] = pixel % pixels_per_image;
    images[at] = pixel / pixels_per_image;
  }
};

inline IndexLists index_lists(const Tensor& like, int64_t total) {
  IndexLists lists;
  lists.splat_ids = new_empty(like, {total}, ScalarType::Long);
  lists.pixel_ids = new_empty(like, {total}, ScalarType::Long);
  lists.image_ids = new_empty(like, {total}, ScalarType::Long);
  lists.splats = output<int64_t>(lists.splat_ids);
  lists.pixels = output<int64_t>(lists.pixel_ids);
  lists.images = output<int64_t>(lists.image_ids);
  return lists;
}

template <typename T>
BlendArgs<T> blend_args(const Tensor& means2d, const Tensor& conics, const Tensor& colors,
                        const Tensor& opacities, const std::optional<Tensor>& backgrounds,
                        const Tensor& flatten_ids, double alpha_cap) {
  return {input<T>(means2d),
          input<T>(conics),
          input<T>(colors),
          input<T>(opacities),
          optional_input<T>(backgrounds),
          input<int32_t>(flatten_ids),
          static_cast<T>(alpha_cap)};
}

inline TileLayout tile_layout(const BlendSizes& s, int64_t width, int64_t height, int64_t tile_size,
                              const Tensor& offsets, const std::optional<Tensor>& masks) {
  return {s, width, height, tile_size, input<int32_t>(offsets), optional_input<bool>(masks)};
}

// What blending takes, in the layout of M rows.
struct BlendInputs {
  Tensor means2d, conics, colors, opacities;
  std::optional<Tensor> backgrounds, masks;
  int64_t width, height, tile_size;
  Tensor offsets, flatten_ids;
  std::optional<Tensor> slots, starts;
  double alpha_cap;

  BlendSizes check(const char* op) const {
    return check_blend(means2d, conics, &colors, opacities, backgrounds, masks, width, height,
                       tile_size, offsets, flatten_ids, op);
  }
  void make_dense() {
    dense_all(means2d, conics, colors, opacities, offsets, flatten_ids);
    dense_all(backgrounds, masks, slots, starts);
  }
  template <typename T>
  BlendArgs<T> args() const {
    return blend_args<T>(means2d, conics, colors, opacities, backgrounds, flatten_ids, alpha_cap);
  }
};

using BlendResult = std::tuple<Tensor, Tensor, Tensor>;  // render, alphas, state
// Of means2d, |means2d|, conics, colors and opacities.
using BlendedGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Backend>
BlendResult blend_forward(BlendInputs in, bool keep_state, const char* op) {
  const BlendSizes s = in.check(op);
  in.make_dense();
  Tensor render = new_empty(in.means2d, {s.I, in.height, in.width, s.D});
  Tensor alphas = new_empty(in.means2d, {s.I, in.height, in.width, 1});
  const TileLayout layout = tile_layout(s, in.width, in.height, in.tile_size, in.offsets, in.masks);
  Tensor state;
  dispatch_float(in.means2d, [&](auto zero) {
    using T = decltype(zero);
    state = Backend::forward(in.args<T>(), layout, keep_state, output<T>(render), output<T>(alphas),
                             in.means2d);
  });
  return {render, alphas, state};
}

template <typename Backend>
BlendedGradients blend_backward(BlendInputs in, const BlendResult& result, Tensor g_render,
                                Tensor g_alphas, bool absgrad, const char* op) {
  const BlendSizes s = in.check(op);
  Tensor render = std::get<0>(result), alphas = std::get<1>(result), state = std::get<2>(result);
  check_shape(render, {s.I, in.height, in.width, s.D}, op, "render");
  check_shape(alphas, {s.I, in.height, in.width, 1}, op, "alphas");
  check_shape(g_render, {s.I, in.height, in.width, s.D}, op, "g_render");
  check_shape(g_alphas, {s.I, in.height, in.width, 1}, op, "g_alphas");
  const std::tuple<const Tensor*, const char*> floating[] = {
      {&render, "render"}, {&alphas, "alphas"}, {&g_render, "g_render"}, {&g_alphas, "g_alphas"}};
  for (const auto& [tensor, name] : floating) {
    check_dtype(*tensor, in.means2d.scalar_type(), op, name);
    check_same_device(*tensor, in.means2d, op, name);
  }
  check_slots(in.slots, in.starts, in.means2d, s, op);
  check_shape(state, {-1}, op, "state");
  check_dtype(state, ScalarType::Int, op, "state");
  check_same_device(state, in.means2d, op, "state");
  in.make_dense();
  dense_all(render, alphas, g_render, g_alphas);
  const BlendLists lists{optional_input<int32_t>(in.slots), optional_input<int64_t>(in.starts)};
  const Tensor& like = in.means2d;
  Tensor g_means2d = new_empty(like, {s.M, 2}), g_conics = new_empty(like, {s.M, 3});
  Tensor g_means2d_abs = new_empty(like, {absgrad ? s.M : 0, 2});
  Tensor g_colors = new_empty(like, {s.M, s.D}), g_opacities = new_empty(like, {s.M});
  const TileLayout layout = tile_layout(s, in.width, in.height, in.tile_size, in.offsets, in.masks);
  dispatch_float(like, [&](auto zero) {
    using T = decltype(zero);
    const BlendOutputs<T> out{input<T>(render),   input<T>(alphas),      input<T>(g_render),
                              input<T>(g_alphas), input<int32_t>(state), state.numel()};
    const BlendInputGradients<T> g{
        output<T>(g_means2d), absgrad ? output<T>(g_means2d_abs) : nullptr, output<T>(g_conics),
        output<T>(g_colors), output<T>(g_opacities)};
    Backend::backward(in.args<T>(), layout, out, lists, g, like);
  });
  return {g_means2d, g_means2d_abs, g_conics, g_colors, g_opacities};
}

template <typename Backend>
BlendResult splat_blend(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities,
                        std::optional<Tensor>, std::optional<Tensor> backgrounds,
                        std::optional<Tensor> masks, int64_t width, int64_t height,
                        int64_t tile_size, Tensor offsets, Tensor flatten_ids,
                        std::optional<Tensor>, std::optional<Tensor>, double alpha_cap,
                        bool keep_state) {
  return blend_forward<Backend>(
      {means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, offsets,
       flatten_ids, std::nullopt, std::nullopt, alpha_cap},
      keep_state, "splat_blend");
}

template <typename Backend>
BlendedGradients splat_blend_backward(Tensor means2d, Tensor conics, Tensor colors,
                                      Tensor opacities, std::optional<Tensor> backgrounds,
                                      std::optional<Tensor> masks, int64_t width, int64_t height,
                                      int64_t tile_size, Tensor offsets, Tensor flatten_ids,
                                      std::optional<Tensor> slots, std::optional<Tensor> starts,
                                      double alpha_cap, Tensor render, Tensor alphas, Tensor state,
                                      Tensor g_render, Tensor g_alphas, bool absgrad) {
  return blend_backward<Backend>(
      {means2d, conics, colors, opacities, backgrounds, masks, width, height, tile_size, offsets,
       flatten_ids, slots, starts, alpha_cap},
      {render, alphas, state}, g_render, g_alphas, absgrad, "splat_blend_backward");
}

// Every blended (splat, pixel) with list position in [range_start, range_end) batches of
// tile_size^2, in the order of pixels and then depth, as gsplat's rasterize_to_indices_in_range.
template <typename Backend>
std::tuple<Tensor, Tensor, Tensor> splat_indices_in_range(int64_t range_start, int64_t range_end,
                                                          Tensor transmittances, Tensor means2d,
                                                          Tensor conics, Tensor opacities,
                                                          int64_t width, int64_t height,
                                                          int64_t tile_size, Tensor offsets,
                                                          Tensor flatten_ids, double alpha_cap) {
  const char* op = "splat_indices_in_range";
  const BlendSizes s = check_blend(means2d, conics, nullptr, opacities, std::nullopt, std::nullopt,
                                   width, height, tile_size, offsets, flatten_ids, op);
  check_shape(transmittances, {s.I, height, width}, op, "transmittances");
  check_dtype(transmittances, means2d.scalar_type(), op, "transmittances");
  dense_all(transmittances, means2d, conics, opacities, offsets, flatten_ids);
  const TileLayout layout = tile_layout(s, width, height, tile_size, offsets, std::nullopt);
  STD_TORCH_CHECK(range_start >= 0 && range_start <= range_end, op,
                  ": range_start, range_end: expected 0 <= start <= end, got ", range_start, ", ",
                  range_end);
  // No list holds more batches than there are pairs.
  range_end = minimum(range_end, s.P + 1);
  range_start = minimum(range_start, s.P + 1);
  IndexLists lists;
  dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    const auto args =
        blend_args<T>(means2d, conics, opacities, opacities, std::nullopt, flatten_ids, alpha_cap);
    lists =
        Backend::indices(args, layout, range_start, range_end, input<T>(transmittances), means2d);
  });
  return {lists.splat_ids, lists.pixel_ids, lists.image_ids};
}

}  // namespace fl::splat
