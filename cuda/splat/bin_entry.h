// SPDX-License-Identifier: Apache-2.0
//
// Binning as torch sees it: checks, outputs and types, with the work left to a Backend; and what
// both backends do for one splat.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>

#include "core/check.h"
#include "splat/bin.h"

namespace fl::splat {

template <typename T>
struct BinArgs {
  const T* means2d;
  const int32_t* radii;
  const T *depths, *conics, *opacities;
  const int32_t* image_ids;  // null: splat i belongs to image i / splats_per_image
  int64_t M, n_images, splats_per_image;
  TileGrid grid;

  FL_HD int64_t tiles() const { return n_images * grid.width * grid.height; }
};

using BinResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// A pair's slot is its place when pairs lie splat by splat: those of splat i are slots starts[i] to
// starts[i + 1]. Sums over a splat's pairs then have one order, and are read as they lie.
// They are left out, as tensors of no elements, where nobody will ask for gradients.
struct BinOutputs {
  Tensor tiles_per_splat, flatten_ids, offsets, slots, starts;
  bool with_slots;

  BinResult result() const { return {tiles_per_splat, flatten_ids, offsets, slots, starts}; }
};

// flatten_ids and slots follow when the number of pairs is known.
inline BinOutputs bin_outputs(const Tensor& means2d, int64_t n_images, int64_t tile_width,
                              int64_t tile_height, bool with_slots) {
  const int64_t M = means2d.size(0);
  BinOutputs out;
  out.with_slots = with_slots;
  out.tiles_per_splat = new_empty(means2d, {M}, ScalarType::Int);
  out.offsets = new_empty(means2d, {n_images, tile_height, tile_width}, ScalarType::Int);
  out.starts = new_empty(means2d, {M + 1}, ScalarType::Long);
  return out;
}

inline void check_pair_count(int64_t pairs) {
  STD_TORCH_CHECK(pairs <= std::numeric_limits<int32_t>::max(),
                  "splat_bin: expected fewer than 2^31 (splat, tile) pairs, got ", pairs,
                  " or more; render fewer images at once, or larger tiles");
}

inline void check_bin(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                      const std::optional<Tensor>& conics, const std::optional<Tensor>& opacities,
                      const std::optional<Tensor>& image_ids, int64_t n_images, int64_t tile_size,
                      int64_t tile_width, int64_t tile_height, const char* op) {
  check_float(means2d, op, "means2d");
  check_shape(means2d, {-1, 2}, op, "means2d");
  const int64_t M = means2d.size(0);
  STD_TORCH_CHECK(M <= std::numeric_limits<int32_t>::max(), op,
                  ": means2d: expected fewer than 2^31 splats, got ", M);
  check_shape(radii, {M, 2}, op, "radii");
  check_dtype(radii, ScalarType::Int, op, "radii");
  check_shape(depths, {M}, op, "depths");
  check_dtype(depths, means2d.scalar_type(), op, "depths");
  check_same_device(radii, means2d, op, "radii");
  check_same_device(depths, means2d, op, "depths");
  STD_TORCH_CHECK(conics.has_value() == opacities.has_value(), op,
                  ": expected conics and opacities together, or neither");
  if (conics.has_value()) {
    check_shape(*conics, {M, 3}, op, "conics");
    check_dtype(*conics, means2d.scalar_type(), op, "conics");
    check_same_device(*conics, means2d, op, "conics");
    check_shape(*opacities, {M}, op, "opacities");
    check_dtype(*opacities, means2d.scalar_type(), op, "opacities");
    check_same_device(*opacities, means2d, op, "opacities");
  }
  STD_TORCH_CHECK(n_images >= 0 && tile_size >= 1 && tile_width >= 1 && tile_height >= 1, op,
                  ": expected n_images >= 0 and tile_size, tile_width, tile_height >= 1, got ",
                  n_images, ", ", tile_size, ", ", tile_width, ", ", tile_height);
  STD_TORCH_CHECK(tile_width < (1 << 24) && tile_height < (1 << 24) &&
                      n_images <= std::numeric_limits<int32_t>::max() / (tile_width * tile_height),
                  op, ": expected fewer than 2^31 tiles in all images");
  if (image_ids.has_value()) {
    check_shape(*image_ids, {M}, op, "image_ids");
    check_dtype(*image_ids, ScalarType::Int, op, "image_ids");
    check_same_device(*image_ids, means2d, op, "image_ids");
  } else {
    STD_TORCH_CHECK(n_images == 0 ? M == 0 : M % n_images == 0, op, ": expected ", M,
                    " splats to divide into ", n_images, " images");
  }
}

template <typename T>
BinArgs<T> bin_args(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                    const std::optional<Tensor>& conics, const std::optional<Tensor>& opacities,
                    const std::optional<Tensor>& image_ids, int64_t n_images, int64_t tile_size,
                    int64_t tile_width, int64_t tile_height) {
  const int64_t M = means2d.size(0);
  return {
      input<T>(means2d),
      input<int32_t>(radii),
      input<T>(depths),
      optional_input<T>(conics),
      optional_input<T>(opacities),
      optional_input<int32_t>(image_ids),
      M,
      n_images,
      n_images > 0 ? std::max<int64_t>(1, M / n_images) : 1,
      {static_cast<int>(tile_size), static_cast<int>(tile_width), static_cast<int>(tile_height)}};
}

template <typename T>
FL_HD bool is_visible(const BinArgs<T>& a, int64_t i) {
  return a.radii[2 * i] > 0 && a.radii[2 * i + 1] > 0 &&
         (a.opacities == nullptr || a.opacities[i] >= T(kAlphaThreshold));
}

// Order of a float's bits as unsigned keys.
template <typename T>
FL_HD uint32_t depth_key_of(T depth) {
  union {
    float value;
    uint32_t bits;
  } both;
  both.value = static_cast<float>(depth);
  return depth_key(both.bits);
}

// A splat ready to be cut by rows of tiles.
template <typename T>
struct TileCover {
  TileRange range;
  int64_t first_tile;  // of its image
  bool exact;
  Ellipse<T> ellipse;

  FL_HD Span row(int tile_y, const TileGrid& grid) const {
    return exact ? row_span(ellipse, tile_y, range, grid) : Span{range.x_begin, range.x_end};
  }
  FL_HD int64_t tile(int tile_x, int tile_y, const TileGrid& grid) const {
    return first_tile + static_cast<int64_t>(tile_y) * grid.width + tile_x;
  }
};

template <typename T>
FL_HD TileCover<T> cover_tiles(const BinArgs<T>& a, int64_t i) {
  const T x = a.means2d[2 * i], y = a.means2d[2 * i + 1];
  const int64_t image = a.image_ids != nullptr ? a.image_ids[i] : i / a.splats_per_image;
  TileCover<T> cover;
  cover.range = tile_rectangle(x, y, a.radii[2 * i], a.radii[2 * i + 1], a.grid);
  cover.first_tile = image * a.grid.width * a.grid.height;
  cover.exact = a.conics != nullptr;
  if (cover.exact)
    cover.ellipse = make_ellipse(x, y, a.conics[3 * i], a.conics[3 * i + 1], a.conics[3 * i + 2],
                                 a.opacities[i]);
  return cover;
}

struct BinGrid {
  int64_t n_images, tile_size, tile_width, tile_height;
};

// `between` is called once, where a GPU would wait for the number of pairs.
template <typename Backend, typename Between>
BinResult bin_between(Tensor means2d, Tensor radii, Tensor depths, std::optional<Tensor> conics,
                      std::optional<Tensor> opacities, std::optional<Tensor> image_ids,
                      const BinGrid& grid, bool with_slots, const Between& between,
                      const char* op) {
  const auto [n_images, tile_size, tile_width, tile_height] = grid;
  check_bin(means2d, radii, depths, conics, opacities, image_ids, n_images, tile_size, tile_width,
            tile_height, op);
  dense_all(means2d, radii, depths);
  dense_all(conics, opacities, image_ids);
  BinOutputs out = bin_outputs(means2d, n_images, tile_width, tile_height, with_slots);
  const BinGrid& g = grid;
  dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    Backend::run(bin_args<T>(means2d, radii, depths, conics, opacities, image_ids, g.n_images,
                             g.tile_size, g.tile_width, g.tile_height),
                 means2d, between, out);
  });
  return out.result();
}

template <typename Backend>
BinResult splat_bin(Tensor means2d, Tensor radii, Tensor depths, std::optional<Tensor> conics,
                    std::optional<Tensor> opacities, std::optional<Tensor> image_ids,
                    int64_t n_images, int64_t tile_size, int64_t tile_width, int64_t tile_height) {
  return bin_between<Backend>(
      means2d, radii, depths, conics, opacities, image_ids,
      {n_images, tile_size, tile_width, tile_height}, true, [] {}, "splat_bin");
}

}  // namespace fl::splat
