// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the splatting operators, checked once for the CPU and the CUDA backends.
#pragma once

#include <limits>

#include "core/check.h"
#include "splat/project.h"

namespace fl::splat {

struct ProjectSizes {
  int64_t B, N, C;
};

template <typename T>
struct ProjectArgs {
  const T *means, *covars, *quats, *scales, *opacities, *viewmats, *Ks;
  int64_t B, N, C;
  ProjectSettings<T> settings;
  bool compensate;
};

inline void check_image_size(int64_t width, int64_t height, const char* op) {
  STD_TORCH_CHECK(width > 0 && height > 0 && width < (1 << 24) && height < (1 << 24), op,
                  ": width, height: expected 1 to 2^24 pixels, got ", width, " x ", height);
}

inline ProjectSizes check_project(const Tensor& means, const std::optional<Tensor>& covars,
                                  const std::optional<Tensor>& quats,
                                  const std::optional<Tensor>& scales,
                                  const std::optional<Tensor>& opacities, const Tensor& viewmats,
                                  const Tensor& Ks, int64_t width, int64_t height,
                                  int64_t camera_model, const char* op) {
  check_float(means, op, "means");
  STD_TORCH_CHECK(means.dim() == 3, op, ": means: expected shape [B, N, 3], got ",
                  shape_text(means));
  const int64_t B = means.size(0), N = means.size(1);
  STD_TORCH_CHECK(viewmats.dim() == 4, op, ": viewmats: expected shape [B, C, 4, 4], got ",
                  shape_text(viewmats));
  const int64_t C = viewmats.size(1);
  check_shape(means, {B, N, 3}, op, "means");
  check_shape(viewmats, {B, C, 4, 4}, op, "viewmats");
  check_shape(Ks, {B, C, 3, 3}, op, "Ks");
  const auto same = [&](const Tensor& tensor, const char* name) {
    check_dtype(tensor, means.scalar_type(), op, name);
    check_same_device(tensor, means, op, name);
  };
  same(viewmats, "viewmats");
  same(Ks, "Ks");
  STD_TORCH_CHECK(covars.has_value() || (quats.has_value() && scales.has_value()), op,
                  ": covars: expected covars, or quats and scales");
  if (covars.has_value()) {
    check_shape(*covars, {B, N, 6}, op, "covars");
    same(*covars, "covars");
  } else {
    check_shape(*quats, {B, N, 4}, op, "quats");
    check_shape(*scales, {B, N, 3}, op, "scales");
    same(*quats, "quats");
    same(*scales, "scales");
  }
  if (opacities.has_value()) {
    check_shape(*opacities, {B, N}, op, "opacities");
    same(*opacities, "opacities");
  }
  check_image_size(width, height, op);
  STD_TORCH_CHECK(camera_model >= 0 && camera_model <= 2, op,
                  ": camera_model: expected 0 (pinhole), 1 (ortho) or 2 (fisheye), got ",
                  camera_model);
  return {B, N, C};
}

template <typename T>
ProjectSettings<T> project_settings(int64_t width, int64_t height, double eps2d, double near_plane,
                                    double far_plane, double radius_clip, int64_t camera_model) {
  return {static_cast<int>(width),       static_cast<int>(height),
          static_cast<T>(eps2d),         static_cast<T>(near_plane),
          static_cast<T>(far_plane),     static_cast<T>(radius_clip),
          static_cast<CameraModel>(camera_model)};
}

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

// Rows for the gradients of pairs, grouped by splat (bin_args.h says how), if the caller has them.
inline void check_slots(const std::optional<Tensor>& slots, const std::optional<Tensor>& order,
                        const std::optional<Tensor>& starts, const BlendSizes& s, const char* op) {
  STD_TORCH_CHECK(slots.has_value() == order.has_value() && slots.has_value() == starts.has_value(),
                  op, ": expected slots, order and starts together, or none of them");
  if (!slots.has_value()) return;
  check_shape(*slots, {s.P}, op, "slots");
  check_dtype(*slots, ScalarType::Int, op, "slots");
  check_shape(*order, {s.M}, op, "order");
  check_dtype(*order, ScalarType::Int, op, "order");
  check_shape(*starts, {s.M + 1}, op, "starts");
  check_dtype(*starts, ScalarType::Long, op, "starts");
}

}  // namespace fl::splat
