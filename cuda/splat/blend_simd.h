// SPDX-License-Identifier: Apache-2.0
//
// What the SIMD blending kernels of blend_simd.cpp take: one tile at a time, float32.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fl::splat {

constexpr int kRecordColors = 4;
constexpr int kMaxTileSize = 64;
constexpr int kMaxChannels = 64;

// A splat as blending reads it: one cache line.
struct alignas(64) SplatRecord {
  float x, y, A, B, C;
  float opacity;
  float max_sigma;  // beyond it alpha < 1/255
  float y_extent;   // |dy| beyond it has sigma > max_sigma in every column
  float color[kRecordColors];
  float unused[4];
};

struct BlendTile {
  const SplatRecord* records;
  const float* colors;  // [M, D], read where D > kRecordColors
  const int32_t* ids;   // this tile's splats, front to back
  int64_t count;
  int D;
  int x0, y0, columns, rows;  // the tile's pixels inside the image
  int tile_size;
  float alpha_cap;
  int image_width;
  const float* background;  // [D] or null
};

// Writes render [H, W, D] and alpha [H, W] of the tile's pixels.
using BlendForward = void(const BlendTile& tile, float* render, float* alpha);

// Gradient of one (splat, tile) pair: mean 2, |mean| 2, conic 3, opacity 1, colours D.
constexpr int kPairGeometry = 8;

// `pairs` is null (gradients go to `sums` [M, kPairGeometry + D], indexed by splat) or receives
// each pair's gradient at row slots[i] of the same width.
struct BlendGradients {
  const float *render, *alpha;      // of the forward pass
  const float *g_render, *g_alpha;  // of its outputs
  float* sums;
  float* pairs;
  const int32_t* slots;  // this tile's rows in `pairs`
  bool absgrad;
};

using BlendBackward = void(const BlendTile& tile, const BlendGradients& gradients);

}  // namespace fl::splat

namespace fl {
FL_ISA_DECLARE(splat::BlendForward blend_tile_forward)
FL_ISA_DECLARE(splat::BlendBackward blend_tile_backward)
}  // namespace fl
