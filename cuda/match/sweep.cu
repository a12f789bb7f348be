// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the plane sweep: a block takes a tile of 32 x 8 pixels and sixteen planes. For
// each plane and neighbour the warped tile, with the margin of its windows, goes to shared memory;
// window sums are made in two steps, along rows into shared memory and then down columns; the
// census compares the tile's values. Each thread keeps its pixel's best costs in registers, and the
// block writes runs of sixteen planes.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "match/sweep_entry.h"

namespace fl::match {
namespace {

constexpr int kTileWidth = 32;
constexpr int kTileHeight = 8;
constexpr int kThreads = kTileWidth * kTileHeight;
constexpr int kInputWidth = kTileWidth + 2 * kRadius;
constexpr int kInputHeight = kTileHeight + 2 * kRadius;
constexpr int kInput = kInputWidth * kInputHeight;
constexpr int kRowSums = kTileWidth * kInputHeight;
constexpr int kPlanesAtOnce = 16;
// One more than a multiple of four bytes' worth, so that threads write to different banks.
constexpr int kStagePitch = kPlanesAtOnce + 4;

FL_KERNEL pack_kernel(const int16_t* image, int width, int height, uint32_t* texels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(width) * (height + 1)) return;
  const int x = static_cast<int>(i % width), y = static_cast<int>(i / width);
  const int16_t* row = image + static_cast<int64_t>(y < height ? y : height - 1) * width;
  texels[i] = pack_texel(row[x], row[x + 1 < width ? x + 1 : x]);
}

FL_D int clamped(int value, int count) {
  return value < 0 ? 0 : (value >= count ? count - 1 : value);
}

struct Pixel {
  int x, y;  // inside the tile
  bool in_image;
};

// Sums of a window whose rows were summed before.
FL_D int column_sum(const int* rows, const Pixel& p) {
  int sum = 0;
  FL_UNROLL
  for (int i = 0; i < kWindow; ++i) sum += rows[(p.y + i) * kTileWidth + p.x];
  return sum;
}

FL_D uint32_t census_bits(const int16_t* tile, const Pixel& p) {
  const int16_t* centre = tile + (p.y + kRadius) * kInputWidth + p.x + kRadius;
  uint32_t bits = 0;
  FL_UNROLL
  for (int pair = 0; pair < kCensusPairs; ++pair) {
    const Offset o = census_offset(pair);
    const int step = o.dy * kInputWidth + o.dx;
    bits |= ((centre[step] >> 2) > (centre[-step] >> 2) ? 1u : 0u) << pair;
  }
  return bits;
}

// Where the census, the row sums and the results of a block lie.
struct Tiles {
  int16_t *reference, *warped;   // [kInputHeight, kInputWidth]
  int *row_j, *row_jj, *row_ij;  // [kInputHeight, kTileWidth]
};

FL_D void load_reference(const SweepArgs& a, const Tiles& t, int x0, int y0) {
  for (int i = static_cast<int>(threadIdx.x); i < kInput; i += kThreads) {
    const int x = clamped(x0 + i % kInputWidth - kRadius, a.width);
    const int y = clamped(y0 + i / kInputWidth - kRadius, a.height);
    t.reference[i] =
        static_cast<int16_t>(grey_of(a.reference[static_cast<int64_t>(y) * a.width + x]));
  }
}

struct Sample {
  int value;
  bool seen;
};

FL_D Sample sample(const PackedImage& image, const Warp& warp, float w, int x, int y) {
  const Landing<OnePixel> p =
      land<OnePixel>(row_warp(warp, w, y), static_cast<float>(x) + 0.5f, image.width, image.height);
  const uint32_t* texel = image.texels + static_cast<int64_t>(p.y) * image.width + p.x;
  const int top = static_cast<int>(texel[0]), bottom = static_cast<int>(texel[image.width]);
  return {blend_texels<OnePixel>(top, bottom, p.fx, p.fy),
          p.inside != 0 && texels_unseen(top, bottom) == 0};
}

FL_D void warp_tile(const SweepArgs& a, const Tiles& t, const PackedImage& image, const Warp& warp,
                    float w, int x0, int y0) {
  for (int i = static_cast<int>(threadIdx.x); i < kInput; i += kThreads) {
    const int x = clamped(x0 + i % kInputWidth - kRadius, a.width);
    const int y = clamped(y0 + i / kInputWidth - kRadius, a.height);
    t.warped[i] = static_cast<int16_t>(sample(image, warp, w, x, y).value);
  }
}

FL_D void sum_rows(const Tiles& t, const int16_t* tile) {
  for (int i = static_cast<int>(threadIdx.x); i < kRowSums; i += kThreads) {
    const int first = i / kTileWidth * kInputWidth + i % kTileWidth;
    int j = 0, jj = 0, ij = 0;
    FL_UNROLL
    for (int k = 0; k < kWindow; ++k) {
      const int v = tile[first + k];
      j += v;
      jj += v * v;
      ij += v * t.reference[first + k];
    }
    t.row_j[i] = j;
    t.row_jj[i] = jj;
    t.row_ij[i] = ij;
  }
}

// Keeps the `count` smallest, ascending.
FL_D void keep_best(int (&kept)[kMaxBest], int count, int cost) {
  FL_UNROLL
  for (int k = 0; k < kMaxBest; ++k) {
    if (k >= count) break;
    const int larger = kept[k] > cost ? kept[k] : cost;
    kept[k] = kept[k] < cost ? kept[k] : cost;
    cost = larger;
  }
}

FL_D int average(const int (&kept)[kMaxBest], int count) {
  int sum = 0;
  FL_UNROLL
  for (int k = 0; k < kMaxBest; ++k) sum += k < count ? kept[k] : 0;
  return (sum + count / 2) / count;
}

FL_D int prior_cost(const SweepArgs& a, int x, int y, int plane) {
  const Interpolation h = interpolate(x, a.width, a.prior_width);
  const Interpolation v = interpolate(y, a.height, a.prior_height);
  const auto at = [&](int column, int row) {
    return static_cast<int>(
        a.prior[(static_cast<int64_t>(row) * a.prior_width + column) * a.planes + plane]);
  };
  return interpolate_cost(at(h.first, v.first), at(h.second, v.first), at(h.first, v.second),
                          at(h.second, v.second), h.share, v.share);
}

FL_D void write_planes(const SweepArgs& a, const uint8_t* stage, int x0, int y0, int first_plane,
                       int count) {
  for (int i = static_cast<int>(threadIdx.x); i < kThreads * kPlanesAtOnce; i += kThreads) {
    const int pixel = i / kPlanesAtOnce, k = i % kPlanesAtOnce;
    const int x = x0 + pixel % kTileWidth, y = y0 + pixel / kTileWidth;
    if (k >= count || x >= a.width || y >= a.height) continue;
    const int64_t at = static_cast<int64_t>(y) * a.width + x;
    int cost = kUnseenCost;
    if (a.reference[at] >= 0) {
      cost = stage[pixel * kStagePitch + k];
      if (a.prior != nullptr)
        cost = blend_costs(cost, prior_cost(a, x, y, first_plane + k), a.prior_share);
    }
    a.cost[at * a.planes + first_plane + k] = static_cast<uint8_t>(cost);
  }
}

FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 4) sweep_kernel(SweepArgs a) {
  FL_SHARED(int16_t, reference, kInput);
  FL_SHARED(int16_t, warped, kInput);
  FL_SHARED(int, row_j, kRowSums);
  FL_SHARED(int, row_jj, kRowSums);
  FL_SHARED(int, row_ij, kRowSums);
  FL_SHARED(uint8_t, stage, kThreads* kStagePitch);
  const Tiles t{&reference[0], &warped[0], &row_j[0], &row_jj[0], &row_ij[0]};
  const int x0 = static_cast<int>(blockIdx.x) * kTileWidth;
  const int y0 = static_cast<int>(blockIdx.y) * kTileHeight;
  const Pixel p{static_cast<int>(threadIdx.x) % kTileWidth,
                static_cast<int>(threadIdx.x) / kTileWidth,
                x0 + static_cast<int>(threadIdx.x) % kTileWidth < a.width &&
                    y0 + static_cast<int>(threadIdx.x) / kTileWidth < a.height};
  const bool counts =
      p.in_image && a.reference[static_cast<int64_t>(y0 + p.y) * a.width + x0 + p.x] >= 0;
  const bool any = __syncthreads_or(counts) != 0;
  load_reference(a, t, x0, y0);
  __syncthreads();
  sum_rows(t, t.reference);
  const uint32_t census = census_bits(t.reference, p);
  __syncthreads();
  const int sum_i = column_sum(t.row_j, p);
  const float inverse_i = inverse_deviation<OnePixel>(sum_i, column_sum(t.row_jj, p));
  const int first_plane = static_cast<int>(blockIdx.z) * kPlanesAtOnce;
  const int count = a.planes - first_plane < kPlanesAtOnce ? a.planes - first_plane : kPlanesAtOnce;
  for (int k = 0; any && k < count; ++k) {
    const float w = a.inverse_depths[first_plane + k];
    int kept[kMaxBest] = {255, 255, 255, 255};
    for (int n = 0; n < a.neighbours; ++n) {
      Warp warp;
      for (int i = 0; i < 12; ++i) warp.m[i] = a.warps[12 * n + i];
      __syncthreads();  // The last round's sums and values have been read.
      warp_tile(a, t, a.images[n], warp, w, x0, y0);
      __syncthreads();
      sum_rows(t, t.warped);
      const int differing = __popc(census ^ census_bits(t.warped, p));
      const bool seen = p.in_image && sample(a.images[n], warp, w, x0 + p.x, y0 + p.y).seen;
      __syncthreads();
      const int cost =
          window_cost<OnePixel>(sum_i, inverse_i, column_sum(t.row_j, p), column_sum(t.row_jj, p),
                                column_sum(t.row_ij, p), differing);
      keep_best(kept, a.best, seen ? cost : kUnseenCost);
    }
    stage[static_cast<int>(threadIdx.x) * kStagePitch + k] =
        static_cast<uint8_t>(average(kept, a.best));
  }
  __syncthreads();
  write_planes(a, &stage[0], x0, y0, first_plane, count);
}

struct CudaSweep {
  static void run(SweepArgs& a, const std::vector<Tensor>& neighbours, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    std::vector<Tensor> packed;
    for (int n = 0; n < a.neighbours; ++n) {
      const int width = static_cast<int>(neighbours[n].size(1));
      const int height = static_cast<int>(neighbours[n].size(0));
      packed.push_back(new_empty(like, {height + 1, width}, ScalarType::Int));
      uint32_t* texels = output<uint32_t>(packed.back());
      FL_LAUNCH(pack_kernel, (int64_t{width} * (height + 1) + kThreads - 1) / kThreads, kThreads, 0,
                stream, input<int16_t>(neighbours[n]), width, height, texels);
      a.images[n] = {texels, width, height};
    }
    const dim3 grid((a.width + kTileWidth - 1) / kTileWidth,
                    (a.height + kTileHeight - 1) / kTileHeight,
                    (a.planes + kPlanesAtOnce - 1) / kPlanesAtOnce);
    FL_LAUNCH(sweep_kernel, grid, kThreads, 0, stream, a);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("match_plane_sweep", TORCH_BOX(&match_plane_sweep<CudaSweep>)); }

}  // namespace fl::match
