// SPDX-License-Identifier: Apache-2.0
//
// The arguments of the image loss, checked once for both backends, and how its images lie in
// memory. A row is one line of a plane: width values of one channel, or, where channels are last,
// width x channels interleaved values whose neighbours of the same channel lie `tap` apart. The
// same row passes then serve both layouts.
#pragma once

#include "core/check.h"
#include "training/image_loss.h"

namespace fl::training {

struct ImageLayout {
  int64_t batch, channels, height, width;
  int64_t planes;  // batch, or batch x channels
  int64_t row;     // values in a row
  int64_t tap;     // distance between neighbours
  bool valid;      // count only windows that lie inside the image

  int64_t planes_per_image() const { return batch > 0 ? planes / batch : 0; }
};

// loss = l1_weight * (mean absolute difference) + ssim_weight * (mean similarity)
struct LossWeights {
  double l1, ssim;
};

inline ImageLayout check_images(const Tensor& image, const Tensor& target,
                                const std::optional<Tensor>& mask, bool channels_last, bool valid,
                                const char* op) {
  check_float(image, op, "image");
  STD_TORCH_CHECK(image.dim() == 4, op, ": image: expected shape ",
                  channels_last ? "[B, H, W, C]" : "[B, C, H, W]", ", got ", shape_text(image));
  check_shape(target, {image.size(0), image.size(1), image.size(2), image.size(3)}, op, "target");
  check_same_device(target, image, op, "target");
  if (target.scalar_type() != ScalarType::Byte)
    check_dtype(target, image.scalar_type(), op, "target");
  ImageLayout s{};
  s.batch = image.size(0);
  s.channels = image.size(channels_last ? 3 : 1);
  s.height = image.size(channels_last ? 1 : 2);
  s.width = image.size(channels_last ? 2 : 3);
  s.planes = channels_last ? s.batch : s.batch * s.channels;
  s.row = channels_last ? s.width * s.channels : s.width;
  s.tap = channels_last ? s.channels : 1;
  s.valid = valid;
  STD_TORCH_CHECK(!valid || image.numel() == 0 || (s.height >= kWindow && s.width >= kWindow), op,
                  ": image: expected at least 11 x 11 pixels for padding \"valid\", got ", s.height,
                  " x ", s.width);
  if (mask.has_value()) {
    check_shape(*mask, {s.batch, s.height, s.width}, op, "mask");
    check_dtype(*mask, ScalarType::Bool, op, "mask");
    check_same_device(*mask, image, op, "mask");
  }
  return s;
}

}  // namespace fl::training
