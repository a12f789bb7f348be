// SPDX-License-Identifier: Apache-2.0
//
// What image_loss_cpu.cpp asks of image_loss_simd.cpp: one band of rows of one plane.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/macros.h"

namespace fl::training {

template <typename T>
struct LossBand {
  const T* image;                         // the plane
  const void* target;                     // the plane, T or uint8
  const uint8_t* mask;                    // the image's pixels, or null
  T* gradient;                            // the plane, or null
  double *l1_sums, *ssim_sums;            // one a row of the plane
  T* scratch;                             // loss_band_scratch() values, 64-byte aligned, zero
  int64_t height, row, tap, first, last;  // rows [first, last)
  T l1_scale, ssim_scale;                 // what the gradient of each summed term is multiplied by
  bool bytes, valid;
};

// Values between the starts of two rows of scratch: window margins left and right, and room for
// the last vector.
FL_HD int64_t loss_row_stride(int64_t row, int64_t tap) { return (row + 10 * tap + 31) / 16 * 16; }

// Eleven rows each of image, target and three derivatives; four of averages; the values; the mask.
FL_HD int64_t loss_band_scratch(int64_t row, int64_t tap) {
  return (5 * 11 + 4 + 2) * loss_row_stride(row, tap);
}

}  // namespace fl::training

namespace fl {
FL_ISA_DECLARE(void image_loss_band_float(const training::LossBand<float>& band))
FL_ISA_DECLARE(void image_loss_band_double(const training::LossBand<double>& band))
}  // namespace fl
