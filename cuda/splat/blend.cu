// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of blending. A block owns a tile; each of its warps owns sub-tiles of 8x4 pixels,
// a lane a pixel. Splats come 32 at a time: each lane tests one against its warp's sub-tile, and
// only those that reach 1/255 inside it are blended (in a trained scene about a quarter).
//
// Forward: warps go their own ways; each packs its surviving splats into its own shared memory.
//
// Backward: a block takes its tile's pairs a batch at a time, all warps together. A warp replays
// its pixels front to back (blend.h), eight surviving splats at a time: a lane leaves each splat's
// d loss / d sigma and weight for its pixel in shared memory, then takes one row of one splat's
// pixels and adds up what they mean for mean, conic and colour. Sums over 32 pixels so cost two
// stores, a short loop and two exchanges instead of five exchanges a value. The block adds its
// warps' sums and stores one row a pair, in the pair's slot. A last launch adds each splat's rows
// in order. No atomics: gradients are the same every time.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "splat/draw_parts.h"

namespace fl::splat {
namespace {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kSubWidth = 8, kSubHeight = 4;
constexpr int kWarps = 8;  // all sub-tiles of a 16x16 tile at once
constexpr int kThreads = 32 * kWarps;
constexpr int kBatch = 32;
constexpr int kMaxChannels = 32;
constexpr int kGeometry = 6;  // Moments
constexpr int kAddThreads = 128;

// Rows that a warp of add_rows_kernel stages at once: with doubles, four warps' fill 48 KB.
constexpr int staged_rows(int values) { return values < 16 ? 96 : 24; }

// Up to four channels travel with a splat's geometry; more are read where they are used.
constexpr bool carries_color(int channels) { return channels <= 4; }

// A splat as the inner loop reads it.
template <typename T, int kD>
struct alignas(16) Entry {
  T x, y;
  Footprint<T> shape;
  int32_t place;  // in the tile's list
  int32_t splat;
  T color[carries_color(kD) ? 4 : 1];
};

template <typename T, int kD>
FL_D void load_color(const BlendArgs<T>& a, Entry<T, kD>& e) {
  if (carries_color(kD)) {
    FL_UNROLL
    for (int c = 0; c < kD; ++c)
      if (c < 4) e.color[c] = a.colors[static_cast<int64_t>(e.splat) * kD + c];
  }
}

template <typename T, int kD>
FL_D const T* color_of(const BlendArgs<T>& a, const Entry<T, kD>& e, int D) {
  return carries_color(kD) ? e.color : a.colors + static_cast<int64_t>(e.splat) * D;
}

struct SubTile {
  int x, y;  // this lane's pixel
  bool inside;
  bool empty;  // no lane is inside
};

FL_D SubTile sub_tile(const TileLayout& l, int64_t tile, int index) {
  const int across = static_cast<int>((l.tile_size + kSubWidth - 1) / kSubWidth);
  const int left = index % across * kSubWidth, top = index / across * kSubHeight;
  const int lane = threadIdx.x % 32, x = left + lane % kSubWidth, y = top + lane / kSubWidth;
  const int columns = l.columns(tile), rows = l.rows(tile);
  return {l.x0(tile) + x, l.y0(tile) + y, x < columns && y < rows, left >= columns || top >= rows};
}

FL_HD int sub_tile_count(const TileLayout& l) {
  return static_cast<int>((l.tile_size + kSubWidth - 1) / kSubWidth *
                          ((l.tile_size + kSubHeight - 1) / kSubHeight));
}

template <typename T>
struct Box {
  T x_low, x_high, y_low, y_high;  // pixel centres of a sub-tile
};

template <typename T>
FL_D Box<T> box_of(const SubTile& pixel) {
  const int lane = threadIdx.x % 32;
  const T left = T(pixel.x - lane % kSubWidth) + T(0.5);
  const T top = T(pixel.y - lane / kSubWidth) + T(0.5);
  return {left, left + T(kSubWidth - 1), top, top + T(kSubHeight - 1)};
}

template <typename T, int kD>
FL_D Entry<T, kD> load_entry(const BlendArgs<T>& a, int32_t splat, int64_t place) {
  const int64_t i = splat;
  return {a.means2d[2 * i],
          a.means2d[2 * i + 1],
          footprint(a.conics[3 * i], a.conics[3 * i + 1], a.conics[3 * i + 2], a.opacities[i]),
          static_cast<int32_t>(place),
          splat,
          {}};
}

// A little more than the exact bound: the test on alpha itself decides. Conic and bound are both
// scaled by log2(e), which the comparison does not see.
template <typename T, int kD>
FL_D bool reaches(const Entry<T, kD>& e, const Box<T>& box) {
  const Footprint<T>& s = e.shape;
  return s.opacity >= T(kAlphaThreshold) &&
         smallest_sigma(T(-2) * s.a, -s.b, T(-2) * s.c, box.x_low - e.x, box.x_high - e.x,
                        box.y_low - e.y,
                        box.y_high - e.y) <= std::log2(s.opacity / T(kAlphaThreshold)) + T(1.5e-3);
}

template <typename T, int kD>
FL_D void blend_sub_tile(const BlendArgs<T>& a, const TileLayout& l, int64_t tile, int64_t begin,
                         int64_t end, const SubTile& pixel, Entry<T, kD>* entries, T* render,
                         T* alphas, int32_t* last) {
  const int lane = threadIdx.x % 32;
  const int D = static_cast<int>(l.s.D);
  const Box<T> box = box_of<T>(pixel);
  const T px = T(pixel.x) + T(0.5), py = T(pixel.y) + T(0.5);
  T transmittance = T(1), color[kD] = {};
  int32_t seen = 0;
  bool done = !pixel.inside;
  for (int64_t base = begin; base < end; base += kBatch) {
    if (__all_sync(kFullWarp, done)) break;
    bool keep = false;
    Entry<T, kD> own{};
    if (base + lane < end) {
      own = load_entry<T, kD>(a, a.ids[base + lane], base + lane - begin);
      keep = reaches(own, box);
    }
    const unsigned kept = __ballot_sync(kFullWarp, keep);
    if (keep) load_color(a, own);
    if (keep) entries[__popc(kept & ((1u << lane) - 1))] = own;
    __syncwarp();
    const int count = __popc(kept);
    for (int k = 0; k < count && !done; ++k) {
      const Entry<T, kD> e = entries[k];
      Fragment<T> f;
      const Step step =
          evaluate_fragment(e.shape, px - e.x, py - e.y, a.alpha_cap, transmittance, f);
      if (step == Step::stop) done = true;
      if (step != Step::blend) continue;
      const T weight = transmittance * f.alpha;
      const T* rgb = color_of(a, e, D);
      FL_UNROLL
      for (int c = 0; c < kD; ++c)
        if (kD <= 4 || c < D) color[c] += weight * rgb[c];
      transmittance = f.next;
      seen = e.place + 1;
    }
    __syncwarp();
  }
  if (!pixel.inside) return;
  const int64_t image = l.image(tile), at = (image * l.height + pixel.y) * l.width + pixel.x;
  alphas[at] = T(1) - transmittance;
  if (last != nullptr) last[at] = seen;
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D) {
      if (a.backgrounds != nullptr) color[c] += transmittance * a.backgrounds[image * D + c];
      render[at * D + c] = color[c];
    }
}

template <typename T, int kD>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, (sizeof(T) == 4 && carries_color(kD) ? 5 : 1))
    blend_kernel(BlendArgs<T> a, TileLayout l, T* render, T* alphas, int32_t* last) {
  using Own = Entry<T, kD>;
  FL_SHARED_2D(Own, entries, kWarps, kBatch);
  const int64_t tile = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const bool shown = l.masks == nullptr || l.masks[tile];
  const int64_t begin = l.begin(tile), end = shown ? l.end(tile) : begin;
  for (int index = warp; index < sub_tile_count(l); index += blockDim.x / 32) {
    const SubTile pixel = sub_tile(l, tile, index);
    if (!pixel.empty)
      blend_sub_tile<T, kD>(a, l, tile, begin, end, pixel, &entries[warp][0], render, alphas, last);
  }
}

// How many values a pair's row has: moments, absolute mean gradients if asked for, channels.
template <typename T, int kD, bool kAbs>
struct Row {
  static constexpr int kColor = kGeometry + (kAbs ? 2 : 0);
  static constexpr int kValues = kColor + kD;
  static constexpr int kStride = kValues | 1;  // odd, so that lanes fall into different banks
  // Pairs that a block takes at once; more even out its warps, fewer leave room in shared memory.
  static constexpr int kBatch = sizeof(T) == 8 ? 16 : carries_color(kD) ? 64 : 32;
};

constexpr int kGroup = 8;          // splats that a warp adds up together, four lanes each
constexpr int kPitch = 32 + 4;     // so that their rows fall into different banks
constexpr int kLanesPerSplat = 4;  // one for each row of a sub-tile

// Of one row of pixels' colour gradients; the odd one puts rows into different banks.
constexpr int color_pitch(int channels) { return kSubWidth * channels + 1; }

// Where in a block's dynamic shared memory each thing lies, in values.
template <typename T, int kD, bool kAbs>
struct BackwardMemory {
  using Layout = Row<T, kD, kAbs>;
  static constexpr int kSums = Layout::kBatch * Layout::kStride;  // of a warp
  static constexpr int kStage = kGroup * kPitch;                  // of a warp, twice
  static constexpr int kColors = kSubHeight * color_pitch(kD);
  static constexpr int kWarp = kSums + 2 * kStage + kColors;
  // Blocks of fewer warps, which take their tile in more rounds, where eight would need more than
  // the 99 KB that every GPU since sm_80 has.
  static constexpr int kMostWarps = kWarps * kWarp * sizeof(T) > 99 * 1024 ? kWarps / 2 : kWarps;
  static constexpr int weights = kStage, sums = 2 * kStage, colors = 2 * kStage + kSums;
};

template <typename T, int kD>
struct PixelState {
  T v[kD];
  T rest, transmittance;
  int32_t last;
};

template <typename T, int kD>
FL_D PixelState<T, kD> start_pixel(const BlendOutputs<T>& out, const TileLayout& l, int64_t tile,
                                   const SubTile& pixel) {
  PixelState<T, kD> s;
  s.rest = T(0);
  s.transmittance = T(1);
  s.last = 0;
  FL_UNROLL
  for (int c = 0; c < kD; ++c) s.v[c] = T(0);
  if (!pixel.inside) return s;
  const int D = static_cast<int>(l.s.D);
  const int64_t at = (l.image(tile) * l.height + pixel.y) * l.width + pixel.x;
  s.last = out.state[at];
  s.rest = -(T(1) - out.alphas[at]) * out.g_alphas[at];
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D) {
      s.v[c] = out.g_render[at * D + c];
      s.rest += s.v[c] * out.render[at * D + c];
    }
  return s;
}

template <typename T>
struct PixelGradient {
  T sigma, weight;  // d loss / d sigma and what the splat's colour is multiplied with
};

// What a splat does to this lane's pixel; zero where it is not blended.
template <typename T, int kD>
FL_D PixelGradient<T> pixel_gradient(const Entry<T, kD>& e, const T* rgb, int D, T px, T py,
                                     T alpha_cap, PixelState<T, kD>& s) {
  Fragment<T> f;
  if (e.place >= s.last ||
      evaluate_fragment(e.shape, px - e.x, py - e.y, alpha_cap, s.transmittance, f) == Step::skip)
    return {T(0), T(0)};
  const T weight = s.transmittance * f.alpha;
  T along = T(0);
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D) along += rgb[c] * s.v[c];
  s.rest -= weight * along;
  const T g_alpha = s.transmittance * along - s.rest / (T(1) - f.alpha);
  s.transmittance = f.next;
  return {f.capped ? T(0) : -f.alpha * g_alpha, weight};
}

// Leaves the image's gradients at this warp's pixels where each lane finds those of the row that
// it adds up: in registers they would cost a third of the warps that fit on a multiprocessor.
template <typename T, int kD>
FL_D void share_colors(const PixelState<T, kD>& s, T* place) {
  const int lane = threadIdx.x % 32;
  T* mine = place + lane / kSubWidth * color_pitch(kD) + lane % kSubWidth * kD;
  FL_UNROLL
  for (int c = 0; c < kD; ++c) mine[c] = s.v[c];
  __syncwarp();
}

template <typename T>
FL_D void load_row(const T* from, T* to) {
  if constexpr (sizeof(T) == 4) {
    const float4 low = *reinterpret_cast<const float4*>(from);
    const float4 high = *reinterpret_cast<const float4*>(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  } else {
    FL_UNROLL
    for (int x = 0; x < kSubWidth; ++x) to[x] = from[x];
  }
}

// One row of pixels of one splat: its share of the splat's sums.
template <typename T, int kD, bool kAbs>
FL_D void add_row(const Entry<T, kD>& e, const T* sigmas, const T* weights, const T* v, T left, T y,
                  T* values) {
  using Layout = Row<T, kD, kAbs>;
  const T dx0 = left - e.x, dy = y - e.y;
  T g[kSubWidth], one = T(0), sum_x = T(0), sum_xx = T(0), abs_x = T(0), abs_y = T(0);
  load_row(sigmas, g);
  FL_UNROLL
  for (int x = 0; x < kSubWidth; ++x) {
    const T dx = dx0 + T(x), gx = g[x] * dx;
    one += g[x];
    sum_x += gx;
    sum_xx += gx * dx;
    if constexpr (kAbs) {
      const Footprint<T>& s = e.shape;
      const T size = g[x] < T(0) ? -g[x] : g[x];
      const T vx = T(2) * s.a * dx + s.b * dy, vy = s.b * dx + T(2) * s.c * dy;
      abs_x += size * (vx < T(0) ? -vx : vx);
      abs_y += size * (vy < T(0) ? -vy : vy);
    }
  }
  values[0] = one;
  values[1] = sum_x;
  values[2] = one * dy;
  values[3] = sum_xx;
  values[4] = sum_x * dy;
  values[5] = one * dy * dy;
  if constexpr (kAbs) {
    values[6] = abs_x * T(1 / kLog2E);
    values[7] = abs_y * T(1 / kLog2E);
  }
  load_row(weights, g);
  FL_UNROLL
  for (int c = 0; c < kD; ++c) {
    T sum = T(0);
    FL_UNROLL
    for (int x = 0; x < kSubWidth; ++x) sum += g[x] * v[x * kD + c];
    values[Layout::kColor + c] = sum;
  }
}

// The survivors of a batch in this warp's sub-tile: their places in the batch, ascending, and a
// bit for each.
template <int kBatch>
struct Survivors {
  uint32_t bits[(kBatch + 31) / 32];
  int count;
};

template <typename T, int kD, int kBatch>
FL_D Survivors<kBatch> find_survivors(const Entry<T, kD>* entries, int count, bool empty,
                                      int32_t reach, const Box<T>& box, uint8_t* places) {
  const int lane = threadIdx.x % 32;
  Survivors<kBatch> found;
  found.count = 0;
  FL_UNROLL
  for (int part = 0; part < (kBatch + 31) / 32; ++part) {
    const int k = 32 * part + lane;
    const bool keep = !empty && k < count && entries[k].place < reach && reaches(entries[k], box);
    const unsigned kept = __ballot_sync(kFullWarp, keep);
    if (keep) places[found.count + __popc(kept & ((1u << lane) - 1))] = static_cast<uint8_t>(k);
    found.bits[part] = kept;
    found.count += __popc(kept);
  }
  __syncwarp();
  return found;
}

// One batch of pairs for one warp: `memory` receives the sums of its sub-tile.
template <typename T, int kD, bool kAbs>
FL_D void backward_batch(const BlendArgs<T>& a, int D, const Entry<T, kD>* entries,
                         const uint8_t* places, int survivors, const SubTile& pixel,
                         const Box<T>& box, PixelState<T, kD>& s, T* memory) {
  using Layout = Row<T, kD, kAbs>;
  using Memory = BackwardMemory<T, kD, kAbs>;
  const int lane = threadIdx.x % 32, member = lane / kLanesPerSplat, row = lane % kLanesPerSplat;
  const T px = T(pixel.x) + T(0.5), py = T(pixel.y) + T(0.5);
  T *sigmas = memory, *weights = memory + Memory::weights, *sums = memory + Memory::sums;
  const T* v = memory + Memory::colors + row * color_pitch(kD);
  for (int first = 0; first < survivors; first += kGroup) {
    const int members = minimum(survivors - first, kGroup);
    for (int k = 0; k < members; ++k) {
      const Entry<T, kD> e = entries[places[first + k]];
      const PixelGradient<T> g =
          pixel_gradient<T, kD>(e, color_of(a, e, D), D, px, py, a.alpha_cap, s);
      sigmas[k * kPitch + lane] = g.sigma;
      weights[k * kPitch + lane] = g.weight;
    }
    __syncwarp();
    T values[Layout::kValues] = {};
    const int place = member < members ? places[first + member] : 0;
    if (member < members)
      add_row<T, kD, kAbs>(entries[place], sigmas + member * kPitch + row * kSubWidth,
                           weights + member * kPitch + row * kSubWidth, v, box.x_low,
                           box.y_low + T(row), values);
    FL_UNROLL
    for (int k = 0; k < Layout::kValues; ++k) {
      values[k] += __shfl_xor_sync(kFullWarp, values[k], 1);
      values[k] += __shfl_xor_sync(kFullWarp, values[k], 2);
      if (k % kLanesPerSplat == row && member < members)
        sums[place * Layout::kStride + k] = values[k];
    }
    __syncwarp();
  }
}

// rows [P, kValues]; a tile of more sub-tiles than the block has warps takes several rounds, which
// add up.
template <typename T, int kD, bool kAbs>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, (sizeof(T) == 4 && carries_color(kD) ? 4 : 1))
    blend_backward_kernel(BlendArgs<T> a, TileLayout l, BlendOutputs<T> out, const int32_t* slots,
                          T* rows) {
  using Own = Entry<T, kD>;
  using Layout = Row<T, kD, kAbs>;
  using Memory = BackwardMemory<T, kD, kAbs>;
  constexpr int kBatch = Layout::kBatch, kParts = (kBatch + 31) / 32;
  FL_SHARED(Own, entries, kBatch);
  FL_SHARED(int32_t, furthest, kWarps);
  FL_SHARED_2D(uint8_t, places, kWarps, kBatch);
  FL_SHARED_2D(uint32_t, kept, kWarps, kParts);
  FL_DYNAMIC_SHARED(T, memory);  // [warps, Memory::kWarp]
  const int64_t tile = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, D = static_cast<int>(l.s.D);
  const int warps = blockDim.x / 32;
  const bool shown = l.masks == nullptr || l.masks[tile];
  const int64_t begin = l.begin(tile), end = l.end(tile);
  // What no tile lists must not be added: lists made elsewhere may begin later.
  for (int64_t k = threadIdx.x; tile == 0 && k < begin * Layout::kValues; k += blockDim.x)
    rows[static_cast<int64_t>(slots[k / Layout::kValues]) * Layout::kValues + k % Layout::kValues] =
        T(0);
  for (int round = 0; round < sub_tile_count(l); round += warps) {
    SubTile pixel = sub_tile(l, tile, round + warp);
    if (round + warp >= sub_tile_count(l)) pixel = {pixel.x, pixel.y, false, true};
    PixelState<T, kD> state = start_pixel<T, kD>(out, l, tile, pixel);
    if (!shown) state.last = 0;
    const Box<T> box = box_of<T>(pixel);
    share_colors(state, &memory[warp * Memory::kWarp] + Memory::colors);
    int32_t own_reach = state.last;
    for (int distance = 16; distance > 0; distance /= 2)
      own_reach = maximum(own_reach, __shfl_xor_sync(kFullWarp, own_reach, distance));
    if (lane == 0) furthest[warp] = own_reach;
    __syncthreads();
    int32_t reach = 0;
    for (int w = 0; w < warps; ++w) reach = maximum(reach, static_cast<int32_t>(furthest[w]));
    for (int64_t base = begin; base < end; base += kBatch) {
      const int count = static_cast<int>(minimum(end - base, static_cast<int64_t>(kBatch)));
      const bool seen = base - begin < reach;  // some pixel of the block got this far
      if (seen) {
        for (int k = threadIdx.x; k < count; k += blockDim.x) {
          Own own = load_entry<T, kD>(a, a.ids[base + k], base + k - begin);
          load_color(a, own);
          entries[k] = own;
        }
        __syncthreads();
        const Survivors<kBatch> found = find_survivors<T, kD, kBatch>(
            &entries[0], count, pixel.empty, own_reach, box, &places[warp][0]);
        if (lane == 0) {
          for (int part = 0; part < kParts; ++part) kept[warp][part] = found.bits[part];
        }
        backward_batch<T, kD, kAbs>(a, D, &entries[0], &places[warp][0], found.count, pixel, box,
                                    state, &memory[warp * Memory::kWarp]);
        __syncthreads();
      }
      for (int k = threadIdx.x; k < count * Layout::kValues; k += blockDim.x) {
        const int pair = k / Layout::kValues, value = k % Layout::kValues;
        T sum = T(0);
        for (int w = 0; seen && w < warps; ++w)
          if (kept[w][pair / 32] >> (pair % 32) & 1)
            sum += memory[w * Memory::kWarp + Memory::sums + pair * Layout::kStride + value];
        const int64_t slot = slots[base + pair];
        if (slot < 0 || slot >= l.s.P) continue;  // not a list of splat_bin
        T* place = rows + slot * Layout::kValues + value;
        *place = round == 0 ? sum : *place + sum;
      }
      // The next batch overwrites `entries`; `kept` and the sums wait for its first barrier.
    }
    __syncthreads();
  }
}

template <typename T, int kD, bool kAbs>
FL_D void store_gradient(const BlendArgs<T>& a, const BlendInputGradients<T>& g, int D, int64_t i,
                         const T* sum) {
  const T A = a.conics[3 * i], B = a.conics[3 * i + 1], C = a.conics[3 * i + 2];
  const Moments<T> m{sum[0], sum[1], sum[2], sum[3], sum[4], sum[5]};
  const Vec2<T> mean = mean_gradient(m, A, B, C);
  const Vec3<T> conic = conic_gradient(m);
  g.means2d[2 * i] = mean.x;
  g.means2d[2 * i + 1] = mean.y;
  g.conics[3 * i] = conic.x;
  g.conics[3 * i + 1] = conic.y;
  g.conics[3 * i + 2] = conic.z;
  // A splat of no opacity blends nowhere.
  g.opacities[i] = m.one == T(0) ? T(0) : opacity_gradient(m, a.opacities[i]);
  if (kAbs) {
    g.means2d_abs[2 * i] = sum[kGeometry];
    g.means2d_abs[2 * i + 1] = sum[kGeometry + 1];
  }
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D)
      g.colors[static_cast<int64_t>(i) * D + c] = sum[Row<T, kD, kAbs>::kColor + c];
}

FL_D int64_t clamped(int64_t value, int64_t most) {
  return value < 0 ? 0 : value > most ? most : value;
}

// A warp takes 32 splats, whose rows lie one after the other, and reads them in order through
// shared memory; a lane adds those of its splat. Splats seen by many tiles are shared by all lanes.
template <typename T, int kD, bool kAbs>
FL_KERNEL FL_LAUNCH_BOUNDS(kAddThreads, (carries_color(kD) ? 4 : 1))
    add_rows_kernel(BlendArgs<T> a, BlendInputGradients<T> g, int64_t M, int64_t P, int D,
                    const int64_t* starts, const T* rows) {
  using Layout = Row<T, kD, kAbs>;
  constexpr int64_t kMany = 32, kStaged = staged_rows(Layout::kValues);
  FL_SHARED_2D(T, staged, kAddThreads / 32, kStaged * Layout::kValues);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % 32;
  T* stage = &staged[threadIdx.x / 32][0];
  const int64_t begin = clamped(starts[minimum(i, M)], P);
  const int64_t end = clamped(starts[minimum(i + 1, M)], P);
  T sum[Layout::kValues] = {};
  const bool many = end - begin > kMany;
  const int64_t last = __shfl_sync(kFullWarp, static_cast<long long>(end), 31);
  int64_t first = __shfl_sync(kFullWarp, static_cast<long long>(begin), 0);
  for (; first < last; first += kStaged) {
    const int64_t stop = minimum(first + kStaged, last);
    const bool mine = !many && begin < stop && end > first;
    if (!__any_sync(kFullWarp, mine)) continue;
    const int values = static_cast<int>(stop - first) * Layout::kValues;
    for (int k = lane; k < values; k += 32) stage[k] = rows[first * Layout::kValues + k];
    __syncwarp();
    if (mine)
      for (int64_t row = maximum(begin, first); row < minimum(end, stop); ++row) {
        FL_UNROLL
        for (int k = 0; k < Layout::kValues; ++k)
          sum[k] += stage[static_cast<int>(row - first) * Layout::kValues + k];
      }
    __syncwarp();
  }
  for (unsigned left = __ballot_sync(kFullWarp, many); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const int64_t from = __shfl_sync(kFullWarp, static_cast<long long>(begin), owner);
    const int64_t to = __shfl_sync(kFullWarp, static_cast<long long>(end), owner);
    T part[Layout::kValues] = {};
    for (int64_t row = from + lane; row < to; row += 32) {
      FL_UNROLL
      for (int k = 0; k < Layout::kValues; ++k) part[k] += rows[row * Layout::kValues + k];
    }
    FL_UNROLL
    for (int k = 0; k < Layout::kValues; ++k) {
      for (int distance = 16; distance > 0; distance /= 2)
        part[k] += __shfl_xor_sync(kFullWarp, part[k], distance);
      if (lane == owner) sum[k] = part[k];
    }
  }
  if (i < M) store_gradient<T, kD, kAbs>(a, g, D, i, sum);
}

FL_KERNEL count_up_kernel(int32_t* values, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) values[i] = static_cast<int32_t>(i);
}

// starts[i] = the first sorted pair of splat i or of a later one; slots is the inverse of places.
FL_KERNEL group_kernel(const uint32_t* sorted_ids, const int32_t* places, int64_t P, int64_t M,
                       int32_t* slots, int64_t* starts) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k > P) return;
  if (k < P) slots[places[k]] = static_cast<int32_t>(k);
  const int64_t before = k > 0 ? static_cast<int64_t>(sorted_ids[k - 1]) : -1;
  const int64_t here = k < P ? minimum(static_cast<int64_t>(sorted_ids[k]), M) : M;
  for (int64_t i = before + 1; i <= here; ++i) starts[i] = k;
}

inline int64_t blocks_for(int64_t count, int threads) { return (count + threads - 1) / threads; }

// Slots for lists that did not come from splat_bin.
struct Grouping {
  Tensor slots, starts;
};

Grouping group_pairs(const int32_t* ids, int64_t M, int64_t P, const Tensor& like, Stream stream) {
  Grouping out{new_empty(like, {P}, ScalarType::Int), new_empty(like, {M + 1}, ScalarType::Long)};
  const Scratch sorted(sizeof(uint32_t) * P), numbers(sizeof(int32_t) * P);
  const Scratch places(sizeof(int32_t) * P);
  FL_LAUNCH(count_up_kernel, blocks_for(P, 256), 256, 0, stream, numbers.data<int32_t>(), P);
  sort_pairs(reinterpret_cast<const uint32_t*>(ids), sorted.data<uint32_t>(),
             numbers.data<int32_t>(), places.data<int32_t>(), P, 0, 32, stream);
  FL_LAUNCH(group_kernel, blocks_for(P + 1, 256), 256, 0, stream, sorted.data<uint32_t>(),
            places.data<int32_t>(), P, M, output<int32_t>(out.slots), output<int64_t>(out.starts));
  return out;
}

// f(channels as a constant) with the smallest compiled count that holds D.
template <typename F>
void dispatch_channels(int64_t D, const F& f) {
  STD_TORCH_CHECK(D <= kMaxChannels, "splat_blend: colors: expected at most ", kMaxChannels,
                  " channels on a GPU, got ", D);
  if (D == 1) return f(std::integral_constant<int, 1>{});
  if (D == 3) return f(std::integral_constant<int, 3>{});
  if (D == 4) return f(std::integral_constant<int, 4>{});
  if (D <= 8) return f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, kMaxChannels>{});
}

inline int block_threads(const TileLayout& l) { return 32 * minimum(sub_tile_count(l), kWarps); }

template <typename T, int kD, bool kAbs>
void run_backward(const BlendArgs<T>& a, const TileLayout& l, const BlendOutputs<T>& out,
                  const BlendLists& lists, const BlendInputGradients<T>& g, Stream stream) {
  const Scratch rows(sizeof(T) * Row<T, kD, kAbs>::kValues * l.s.P);
  using Memory = BackwardMemory<T, kD, kAbs>;
  const int warps = minimum(block_threads(l) / 32, Memory::kMostWarps);
  FL_LAUNCH((blend_backward_kernel<T, kD, kAbs>), l.tiles(), 32 * warps,
            sizeof(T) * warps * Memory::kWarp, stream, a, l, out, lists.slots,
            rows.template data<T>());
  FL_LAUNCH((add_rows_kernel<T, kD, kAbs>), blocks_for(l.s.M, kAddThreads), kAddThreads, 0, stream,
            a, g, l.s.M, l.s.P, static_cast<int>(l.s.D), lists.starts, rows.template data<T>());
}

template <typename T>
FL_KERNEL indices_kernel(BlendArgs<T> a, TileLayout l, int64_t range_start, int64_t range_end,
                         const T* transmittances, const int64_t* firsts, int32_t* counts,
                         int64_t* splats, int64_t* pixels, int64_t* images) {
  const int64_t per_image = l.width * l.height;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= l.s.I * per_image) return;
  const int64_t image = pixel / per_image, rest = pixel % per_image;
  const int x = static_cast<int>(rest % l.width), y = static_cast<int>(rest / l.width);
  const int64_t tile =
      image * l.tiles_per_image() + y / l.tile_size * l.s.tile_width + x / l.tile_size;
  int64_t at = firsts != nullptr ? firsts[pixel] : 0;
  int32_t count = 0;
  for_blended(a, l, tile, x, y, range_start, range_end, transmittances[pixel], [&](int64_t splat) {
    if (firsts != nullptr) {
      splats[at] = splat;
      pixels[at] = rest;
      images[at++] = image;
    }
    ++count;
  });
  if (firsts == nullptr) counts[pixel] = count;
}

struct CudaBlend {
  template <typename T>
  static Tensor forward(const BlendArgs<T>& a, const TileLayout& l, bool keep_state, T* render,
                        T* alphas, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    Tensor last = new_empty(like, {keep_state ? l.s.I * l.height * l.width : 0}, ScalarType::Int);
    dispatch_channels(l.s.D, [&](auto channels) {
      FL_LAUNCH((blend_kernel<T, decltype(channels)::value>), l.tiles(), block_threads(l), 0,
                stream, a, l, render, alphas, keep_state ? output<int32_t>(last) : nullptr);
    });
    return last;
  }

  template <typename T>
  static void backward(const BlendArgs<T>& a, const TileLayout& l, const BlendOutputs<T>& out,
                       const BlendLists& given, const BlendInputGradients<T>& g,
                       const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    STD_TORCH_CHECK(out.state_size == l.s.I * l.height * l.width,
                    "splat_blend_backward: state: expected ", l.s.I * l.height * l.width,
                    " values, as splat_blend keeps when keep_state is set, got ", out.state_size);
    BlendLists lists = given;
    Grouping own;
    if (lists.slots == nullptr) {
      own = group_pairs(a.ids, l.s.M, l.s.P, like, stream);
      lists = {input<int32_t>(own.slots), input<int64_t>(own.starts)};
    }
    dispatch_channels(l.s.D, [&](auto channels) {
      constexpr int kD = decltype(channels)::value;
      if (g.means2d_abs != nullptr)
        run_backward<T, kD, true>(a, l, out, lists, g, stream);
      else
        run_backward<T, kD, false>(a, l, out, lists, g, stream);
    });
  }

  template <typename T>
  static IndexLists indices(const BlendArgs<T>& a, const TileLayout& l, int64_t range_start,
                            int64_t range_end, const T* transmittances, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = l.s.I * l.width * l.height;
    const Scratch counts(sizeof(int32_t) * (n + 1)), firsts(sizeof(int64_t) * (n + 1));
    zero_async(counts.data<int32_t>() + n, sizeof(int32_t), stream);
    int64_t *none = nullptr, total = 0;
    FL_LAUNCH((indices_kernel<T>), blocks_for(n, 128), 128, 0, stream, a, l, range_start, range_end,
              transmittances, static_cast<const int64_t*>(nullptr), counts.data<int32_t>(), none,
              none, none);
    exclusive_scan(counts.data<int32_t>(), firsts.data<int64_t>(), n + 1, stream);
    copy_to_host(&total, firsts.data<int64_t>() + n, sizeof(total), stream);
    const IndexLists lists = index_lists(like, total);
    FL_LAUNCH((indices_kernel<T>), blocks_for(n, 128), 128, 0, stream, a, l, range_start, range_end,
              transmittances, static_cast<const int64_t*>(firsts.data<int64_t>()),
              counts.data<int32_t>(), lists.splats, lists.pixels, lists.images);
    return lists;
  }
};

}  // namespace

BlendResult blend_here(const BlendInputs& in, bool keep_state) {
  return blend_forward<CudaBlend>(in, keep_state, "splat_draw");
}

BlendedGradients blend_backward_here(const BlendInputs& in, const BlendResult& out,
                                     const Tensor& g_render, const Tensor& g_alphas, bool absgrad) {
  return blend_backward<CudaBlend>(in, out, g_render, g_alphas, absgrad, "splat_draw_backward");
}

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_blend", TORCH_BOX(&splat_blend<CudaBlend>));
  m.impl("splat_blend_backward", TORCH_BOX(&splat_blend_backward<CudaBlend>));
  m.impl("splat_indices_in_range", TORCH_BOX(&splat_indices_in_range<CudaBlend>));
}

}  // namespace fl::splat
