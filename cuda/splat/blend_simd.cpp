// SPDX-License-Identifier: Apache-2.0
//
// Blending on the CPU: a tile at a time, sixteen pixels of a row at a time. The tile's pixels stay
// in the first-level cache while its splats stream past; a splat touches only the rows its ellipse
// reaches, and a row ends early where no lane can reach alpha 1/255.
#include "splat/blend_simd.h"

#include <cmath>
#include <cstdint>

#include "core/simd.h"
#include "splat/blend.h"

namespace fl {
namespace FL_ISA {
namespace {

using splat::BlendGradients;
using splat::BlendTile;
using splat::kMaxChannels;
using splat::kMaxTileSize;
using splat::kPairGeometry;
using splat::kRecordColors;
using splat::SplatRecord;

constexpr int kMaxStrips = kMaxTileSize / kLanes;
constexpr float kThreshold = static_cast<float>(kAlphaThreshold);
constexpr float kStop = static_cast<float>(kTransmittanceStop);

// Pixels of one strip of sixteen columns: transmittance, which lanes still blend, and per channel.
struct Strip {
  Float16 T[kMaxTileSize];
  uint16_t alive[kMaxTileSize];
  int live_rows;
};

FL_SIMD int strip_count(const BlendTile& tile) { return (tile.columns + kLanes - 1) / kLanes; }

FL_SIMD void start_strip(Strip& strip, const BlendTile& tile, int index) {
  const int lanes = tile.columns - index * kLanes;
  const uint16_t all = lanes >= kLanes ? 0xffff : static_cast<uint16_t>((1u << lanes) - 1);
  for (int row = 0; row < tile.rows; ++row) {
    strip.T[row] = splat16(1.0f);
    strip.alive[row] = all;
  }
  strip.live_rows = tile.rows;
}

FL_SIMD Float16 column_centres(const BlendTile& tile, int strip) {
  const Float16 lane = {0.5f, 1.5f, 2.5f,  3.5f,  4.5f,  5.5f,  6.5f,  7.5f,
                        8.5f, 9.5f, 10.5f, 11.5f, 12.5f, 13.5f, 14.5f, 15.5f};
  return lane + static_cast<float>(tile.x0 + strip * kLanes);
}

struct Rows {
  int begin, end;
};

// The rows whose pixel centres lie within the splat's y extent.
FL_SIMD Rows rows_of(const SplatRecord& s, const BlendTile& tile) {
  const float top = s.y - s.y_extent - 0.5f - tile.y0, bottom = s.y + s.y_extent - 0.5f - tile.y0;
  const int begin = top > 0.0f ? static_cast<int>(std::ceil(top)) : 0;
  const int end = bottom < tile.rows - 1 ? static_cast<int>(std::floor(bottom)) + 1 : tile.rows;
  return {begin, end};
}

struct Fragment {
  Float16 alpha;      // capped
  Float16 raw_alpha;  // before the cap
  Float16 next_T;
  Mask16 mask;  // lanes that blend
};

// False if no lane blends. Retires the lanes whose transmittance would fall to the stop.
FL_SIMD bool blend_row(const SplatRecord& s, const BlendTile& tile, Strip& strip, int row,
                       Float16 dx, float dy, Fragment& f) {
  const Float16 sigma = fragment_sigma<Float16, float>(s.A, s.B, s.C, dx, dy);
  Mask16 mask = mask_from_bits(strip.alive[row]) & less_equal(sigma, splat16(s.max_sigma));
  if (bits_of(mask) == 0) return false;
  f.raw_alpha = exp16(-sigma) * s.opacity;
  f.alpha = min16(f.raw_alpha, splat16(tile.alpha_cap));
  mask = mask & greater_equal(f.alpha, splat16(kThreshold)) & greater_equal(sigma, splat16(0.0f));
  f.next_T = strip.T[row] * (1.0f - f.alpha);
  const Mask16 stop = mask & less_equal(f.next_T, splat16(kStop));
  const uint32_t stopped = bits_of(stop);
  if (stopped != 0) {
    strip.alive[row] = static_cast<uint16_t>(strip.alive[row] & ~stopped);
    if (strip.alive[row] == 0) --strip.live_rows;
    mask = and_not(mask, stop);
  }
  f.mask = mask;
  return bits_of(mask) != 0;
}

FL_SIMD const float* colors_of(const BlendTile& tile, const SplatRecord& s, int32_t id, int D) {
  return D <= kRecordColors ? s.color : tile.colors + static_cast<int64_t>(id) * D;
}

// kD channels, or tile.D where kD is 0.
template <int kD>
void forward(const BlendTile& tile, float* render, float* alpha) {
  const int D = kD > 0 ? kD : tile.D;
  Strip strip;
  Float16 color[kMaxTileSize][kD > 0 ? kD : kMaxChannels];
  for (int index = 0; index < strip_count(tile); ++index) {
    start_strip(strip, tile, index);
    for (int row = 0; row < tile.rows; ++row)
      for (int c = 0; c < D; ++c) color[row][c] = Float16{};
    const Float16 px = column_centres(tile, index);
    for (int64_t i = 0; i < tile.count && strip.live_rows > 0; ++i) {
      const SplatRecord& s = tile.records[tile.ids[i]];
      if (i + 4 < tile.count) __builtin_prefetch(&tile.records[tile.ids[i + 4]]);
      const float* own = colors_of(tile, s, tile.ids[i], D);
      const Rows rows = rows_of(s, tile);
      const Float16 dx = px - s.x;
      for (int row = rows.begin; row < rows.end; ++row) {
        if (strip.alive[row] == 0) continue;
        Fragment f;
        const float dy = static_cast<float>(tile.y0 + row) + 0.5f - s.y;
        if (!blend_row(s, tile, strip, row, dx, dy, f)) continue;
        const Float16 weight = keep(f.mask, f.alpha * strip.T[row]);
        for (int c = 0; c < D; ++c) color[row][c] += weight * own[c];
        strip.T[row] = select(f.mask, f.next_T, strip.T[row]);
      }
    }
    const int first = tile.x0 + index * kLanes;
    const int lanes =
        tile.columns - index * kLanes < kLanes ? tile.columns - index * kLanes : kLanes;
    for (int row = 0; row < tile.rows; ++row) {
      const int64_t pixel = static_cast<int64_t>(tile.y0 + row) * tile.image_width + first;
      if (tile.background != nullptr)
        for (int c = 0; c < D; ++c) color[row][c] += strip.T[row] * tile.background[c];
      for (int lane = 0; lane < lanes; ++lane) {
        alpha[pixel + lane] = 1.0f - strip.T[row][lane];
        for (int c = 0; c < D; ++c) render[(pixel + lane) * D + c] = color[row][c][lane];
      }
    }
  }
}

// What a splat's fragments in one tile add up to; one horizontal sum at the end of the tile.
template <int kD>
struct Sums {
  Float16 one, x, y, xx, xy, yy, abs_x, abs_y;
  Float16 color[kD > 0 ? kD : kMaxChannels];
};

template <int kD>
struct BackwardStrip {
  Strip strip;
  Float16 rest[kMaxTileSize];
  Float16 g_color[kMaxTileSize][kD > 0 ? kD : kMaxChannels];
};

template <int kD>
FL_SIMD void start_backward(BackwardStrip<kD>& b, const BlendTile& tile, const BlendGradients& g,
                            int index, int D) {
  start_strip(b.strip, tile, index);
  const int first = tile.x0 + index * kLanes;
  const int lanes = tile.columns - index * kLanes < kLanes ? tile.columns - index * kLanes : kLanes;
  for (int row = 0; row < tile.rows; ++row) {
    const int64_t pixel = static_cast<int64_t>(tile.y0 + row) * tile.image_width + first;
    Float16 rest{};
    for (int c = 0; c < D; ++c) b.g_color[row][c] = Float16{};
    for (int lane = 0; lane < lanes; ++lane) {
      const float T_end = 1.0f - g.alpha[pixel + lane];
      float own = -T_end * g.g_alpha[pixel + lane];
      for (int c = 0; c < D; ++c) {
        const float v = g.g_render[(pixel + lane) * D + c];
        b.g_color[row][c][lane] = v;
        // The background's share sits in `render` once and in `rest` once: they cancel.
        own += v * g.render[(pixel + lane) * D + c];
      }
      rest[lane] = own;
    }
    b.rest[row] = rest;
  }
}

template <int kD>
FL_SIMD void store_sums(const SplatRecord& s, Sums<kD>& sums, int D, bool absgrad, bool add,
                        float* out) {
  Moments<float> m{sum16(sums.one), sum16(sums.x),  sum16(sums.y),
                   sum16(sums.xx),  sum16(sums.xy), sum16(sums.yy)};
  const Vec2<float> mean = mean_gradient(m, s.A, s.B, s.C);
  const Vec3<float> conic = conic_gradient(m);
  const float values[kPairGeometry] = {mean.x,
                                       mean.y,
                                       absgrad ? sum16(sums.abs_x) : 0.0f,
                                       absgrad ? sum16(sums.abs_y) : 0.0f,
                                       conic.x,
                                       conic.y,
                                       conic.z,
                                       opacity_gradient(m, s.opacity)};
  for (int k = 0; k < kPairGeometry; ++k) out[k] = add ? out[k] + values[k] : values[k];
  for (int c = 0; c < D; ++c) {
    const float value = sum16(sums.color[c]);
    out[kPairGeometry + c] = add ? out[kPairGeometry + c] + value : value;
  }
}

template <int kD, bool kAbs>
void backward(const BlendTile& tile, const BlendGradients& g) {
  const int D = kD > 0 ? kD : tile.D;
  const int64_t width = kPairGeometry + D;
  static thread_local BackwardStrip<kD> strips[kMaxStrips];
  const int count = strip_count(tile);
  for (int index = 0; index < count; ++index) start_backward(strips[index], tile, g, index, D);
  for (int64_t i = 0; i < tile.count; ++i) {
    const int32_t id = tile.ids[i];
    const SplatRecord& s = tile.records[id];
    if (i + 4 < tile.count) __builtin_prefetch(&tile.records[tile.ids[i + 4]]);
    const float* own = colors_of(tile, s, id, D);
    const Rows rows = rows_of(s, tile);
    Sums<kD> sums;
    sums.one = sums.x = sums.y = sums.xx = sums.xy = sums.yy = Float16{};
    sums.abs_x = sums.abs_y = Float16{};
    for (int c = 0; c < D; ++c) sums.color[c] = Float16{};
    bool touched = false;
    for (int index = 0; index < count; ++index) {
      BackwardStrip<kD>& b = strips[index];
      if (b.strip.live_rows == 0) continue;
      const Float16 dx = column_centres(tile, index) - s.x;
      for (int row = rows.begin; row < rows.end; ++row) {
        if (b.strip.alive[row] == 0) continue;
        Fragment f;
        const float dy = static_cast<float>(tile.y0 + row) + 0.5f - s.y;
        if (!blend_row(s, tile, b.strip, row, dx, dy, f)) continue;
        touched = true;
        const Float16 T = b.strip.T[row];
        const Float16 weight = keep(f.mask, f.alpha * T);
        Float16 along{};  // c . v
        for (int c = 0; c < D; ++c) {
          along += b.g_color[row][c] * own[c];
          sums.color[c] += weight * b.g_color[row][c];
        }
        const Float16 rest = b.rest[row] - weight * along;
        b.rest[row] = rest;
        const Float16 g_alpha = T * along - rest / (1.0f - f.alpha);
        const Mask16 free = f.mask & less_equal(f.raw_alpha, splat16(tile.alpha_cap));
        const Float16 g_sigma = keep(free, -f.alpha * g_alpha);
        const Float16 gx = g_sigma * dx, gy = g_sigma * dy;
        sums.one += g_sigma;
        sums.x += gx;
        sums.y += gy;
        sums.xx += gx * dx;
        sums.xy += gx * dy;
        sums.yy += gy * dy;
        if (kAbs) {
          const Float16 vx = gx * s.A + gy * s.B, vy = gx * s.B + gy * s.C;
          sums.abs_x += max16(vx, -vx);
          sums.abs_y += max16(vy, -vy);
        }
        b.strip.T[row] = select(f.mask, f.next_T, T);
      }
    }
    const bool direct = g.pairs == nullptr;
    float* out = direct ? g.sums + id * width : g.pairs + g.slots[i] * width;
    if (touched)
      store_sums(s, sums, D, kAbs, direct, out);
    else if (!direct)
      for (int64_t k = 0; k < width; ++k) out[k] = 0.0f;
  }
}

template <int kD>
void backward_dispatch(const BlendTile& tile, const BlendGradients& g) {
  if (g.absgrad)
    backward<kD, true>(tile, g);
  else
    backward<kD, false>(tile, g);
}

}  // namespace

void blend_tile_forward(const BlendTile& tile, float* render, float* alpha) {
  if (tile.D == 3)
    forward<3>(tile, render, alpha);
  else if (tile.D == 1)
    forward<1>(tile, render, alpha);
  else if (tile.D == 4)
    forward<4>(tile, render, alpha);
  else
    forward<0>(tile, render, alpha);
}

void blend_tile_backward(const BlendTile& tile, const BlendGradients& gradients) {
  if (tile.D == 3)
    backward_dispatch<3>(tile, gradients);
  else if (tile.D == 1)
    backward_dispatch<1>(tile, gradients);
  else if (tile.D == 4)
    backward_dispatch<4>(tile, gradients);
  else
    backward_dispatch<0>(tile, gradients);
}

}  // namespace FL_ISA
}  // namespace fl
