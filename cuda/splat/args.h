// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the blending operators, checked once for the CPU and the CUDA backends.
#pragma once

#include <limits>

#include "core/check.h"
#include "splat/project.h"

namespace fl::splat {

inline void check_image_size(int64_t width, int64_t height, const char* op) {
  STD_TORCH_CHECK(width > 0 && height > 0 && width < (1 << 24) && height < (1 << 24), op,
                  ": width, height: expected 1 to 2^24 pixels, got ", width, " x ", height);
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
