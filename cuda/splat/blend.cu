// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of blending. A block owns a tile; each of its warps owns sub-tiles of 8x4 pixels,
// a lane a pixel. Splats come 32 at a time: each lane tests one against its warp's sub-tile, and
// only those that reach 1/255 inside it are blended (in a trained scene about a quarter).
//
// Forward: warps go their own ways; each packs its surviving splats into its own shared memory.
//
// Backward: a block takes its tile's pairs 32 at a time, all warps together. A warp replays its
// pixels front to back (blend.h), adds each splat's gradient over its lanes by exchanging halves
// (12 shuffles for nine sums instead of 45), and leaves the sums in shared memory; the block adds
// its warps' sums and stores one row a pair, in the pair's slot. A last launch adds each splat's
// rows in order. No atomics: gradients are the same every time.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "splat/blend_entry.h"

namespace fl::splat {
namespace {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kSubWidth = 8, kSubHeight = 4;
constexpr int kWarps = 8;  // all sub-tiles of a 16x16 tile at once
constexpr int kThreads = 32 * kWarps;
constexpr int kBatch = 32;
constexpr int kMaxChannels = 32;
constexpr int kGeometry = 6;  // Moments

// Up to four channels travel with a splat's geometry; more are read where they are used.
constexpr bool carries_color(int channels) { return channels <= 4; }

// A splat as the inner loop reads it.
template <typename T, int kD>
struct alignas(16) Entry {
  T x, y, A, B, C, opacity;
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
  return {a.means2d[2 * i],    a.means2d[2 * i + 1],        a.conics[3 * i],
          a.conics[3 * i + 1], a.conics[3 * i + 2],         a.opacities[i],
          static_cast<int32_t>(place), splat, {}};
}

// A little more than the exact bound: the test on alpha itself decides.
template <typename T, int kD>
FL_D bool reaches(const Entry<T, kD>& e, const Box<T>& box) {
  return e.opacity >= T(kAlphaThreshold) &&
         smallest_sigma(e.A, e.B, e.C, box.x_low - e.x, box.x_high - e.x, box.y_low - e.y,
                        box.y_high - e.y) <= max_sigma(e.opacity) + T(1e-3);
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
      const Step step = evaluate_fragment(e.A, e.B, e.C, e.opacity, px - e.x, py - e.y,
                                          a.alpha_cap, transmittance, f);
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
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 2)
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
template <int kD, bool kAbs>
struct Row {
  static constexpr int kValues = kGeometry + (kAbs ? 2 : 0) + kD;
  static constexpr int kStride = kValues | 1;  // odd, so that lanes fall into different banks
};

// Sums N values over the warp. In each of five rounds a lane hands over the half of the values
// that it will not finish; at the end it holds the sums of the values owned_values<N>(lane).
template <int N, int kDistance, typename T>
FL_D void exchange_halves(T* values, int lane) {
  if constexpr (kDistance > 0) {
    if constexpr (N == 1) {
      values[0] += __shfl_xor_sync(kFullWarp, values[0], kDistance);
    } else {
      constexpr int kHalf = (N + 1) / 2;
      const bool upper = (lane & kDistance) != 0;
      FL_UNROLL
      for (int k = 0; k < kHalf; ++k) {
        const T low = values[k], high = k + kHalf < N ? values[k + kHalf] : T(0);
        const T other = __shfl_xor_sync(kFullWarp, upper ? low : high, kDistance);
        values[k] = (upper ? high : low) + other;
      }
    }
    exchange_halves<(N + 1) / 2, kDistance / 2>(values, lane);
  }
}

struct Owned {
  int first, count;  // none: the lane ends with nothing, or with a copy of what a lower lane holds
};

template <int N>
FL_D Owned owned_values(int lane) {
  Owned owned{0, N};
  int width = N;
  for (int distance = 16; distance > 0; distance /= 2) {
    const bool upper = (lane & distance) != 0;
    if (width == 1) {
      if (upper) owned.count = 0;
      continue;
    }
    const int half = (width + 1) / 2;
    if (upper) owned.first += half;
    owned.count = upper ? owned.count - half : minimum(owned.count, half);
    width = half;
  }
  return owned;
}

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

// This lane's share of a splat's row; zero where its pixel does not blend the splat.
template <typename T, int kD, bool kAbs>
FL_D bool pixel_gradient(const Entry<T, kD>& e, const T* rgb, int D, T px, T py, T alpha_cap,
                         PixelState<T, kD>& s, T* values) {
  FL_UNROLL
  for (int k = 0; k < Row<kD, kAbs>::kValues; ++k) values[k] = T(0);
  if (e.place >= s.last) return false;
  const T dx = px - e.x, dy = py - e.y;
  Fragment<T> f;
  if (evaluate_fragment(e.A, e.B, e.C, e.opacity, dx, dy, alpha_cap, s.transmittance, f) ==
      Step::skip)
    return false;
  const T weight = s.transmittance * f.alpha;
  constexpr int kColor = kGeometry + (kAbs ? 2 : 0);
  T along = T(0);
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D) {
      along += rgb[c] * s.v[c];
      values[kColor + c] = weight * s.v[c];
    }
  s.rest -= weight * along;
  const T g_alpha = s.transmittance * along - s.rest / (T(1) - f.alpha);
  s.transmittance = f.next;
  if (f.capped) return true;
  const T g = -f.alpha * g_alpha, gx = g * dx, gy = g * dy;
  values[0] = g;
  values[1] = gx;
  values[2] = gy;
  values[3] = gx * dx;
  values[4] = gx * dy;
  values[5] = gy * dy;
  if (kAbs) {
    const T vx = e.A * gx + e.B * gy, vy = e.B * gx + e.C * gy;
    values[6] = vx < T(0) ? -vx : vx;
    values[7] = vy < T(0) ? -vy : vy;
  }
  return true;
}

// One batch of at most 32 pairs for one warp: sums [kBatch, kStride] of its sub-tile.
template <typename T, int kD, bool kAbs>
FL_D void backward_batch(const BlendArgs<T>& a, int D, const Entry<T, kD>* entries, int count,
                         const SubTile& pixel, const Box<T>& box, const Owned& owned,
                         PixelState<T, kD>& s, T* sums) {
  using Layout = Row<kD, kAbs>;
  const int lane = threadIdx.x % 32;
  FL_UNROLL
  for (int k = 0; k < Layout::kValues; ++k) sums[lane * Layout::kStride + k] = T(0);
  const bool keep = !pixel.empty && lane < count && reaches(entries[lane], box);
  __syncwarp();
  const T px = T(pixel.x) + T(0.5), py = T(pixel.y) + T(0.5);
  for (unsigned kept = __ballot_sync(kFullWarp, keep); kept != 0; kept &= kept - 1) {
    const int k = __ffs(static_cast<int>(kept)) - 1;
    const Entry<T, kD> e = entries[k];
    T values[Layout::kValues];
    const bool touched =
        pixel_gradient<T, kD, kAbs>(e, color_of(a, e, D), D, px, py, a.alpha_cap, s, values);
    if (!__any_sync(kFullWarp, touched)) continue;
    exchange_halves<Layout::kValues, 16>(values, lane);
    FL_UNROLL
    for (int v = 0; v < (Layout::kValues + 31) / 32; ++v)
      if (v < owned.count) sums[k * Layout::kStride + owned.first + v] = values[v];
  }
}

// rows [P, kValues]; a tile of more than eight sub-tiles takes several rounds, which add up.
template <typename T, int kD, bool kAbs>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 2)
    blend_backward_kernel(BlendArgs<T> a, TileLayout l, BlendOutputs<T> out, const int32_t* slots,
                          T* rows) {
  using Own = Entry<T, kD>;
  using Layout = Row<kD, kAbs>;
  FL_SHARED(Own, entries, kBatch);
  FL_SHARED(int32_t, furthest, kWarps);
  FL_DYNAMIC_SHARED(T, sums);  // [warps, kBatch, kStride]
  const int64_t tile = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, D = static_cast<int>(l.s.D);
  const int warps = blockDim.x / 32;
  const bool shown = l.masks == nullptr || l.masks[tile];
  const int64_t begin = l.begin(tile), end = l.end(tile);
  const Owned owned = owned_values<Layout::kValues>(lane);
  for (int round = 0; round < sub_tile_count(l); round += warps) {
    SubTile pixel = sub_tile(l, tile, round + warp);
    if (round + warp >= sub_tile_count(l)) pixel = {pixel.x, pixel.y, false, true};
    PixelState<T, kD> state = start_pixel<T, kD>(out, l, tile, pixel);
    if (!shown) state.last = 0;
    const Box<T> box = box_of<T>(pixel);
    int32_t reach = state.last;
    for (int distance = 16; distance > 0; distance /= 2)
      reach = maximum(reach, __shfl_xor_sync(kFullWarp, reach, distance));
    if (lane == 0) furthest[warp] = reach;
    __syncthreads();
    for (int w = 0; w < warps; ++w) reach = maximum(reach, static_cast<int32_t>(furthest[w]));
    for (int64_t base = begin; base < end; base += kBatch) {
      const int count = static_cast<int>(minimum(end - base, static_cast<int64_t>(kBatch)));
      const bool seen = base - begin < reach;  // some pixel of the block got this far
      if (seen) {
        if (static_cast<int>(threadIdx.x) < count) {
          Own own = load_entry<T, kD>(a, a.ids[base + threadIdx.x], base + threadIdx.x - begin);
          load_color(a, own);
          entries[threadIdx.x] = own;
        }
        __syncthreads();
        backward_batch<T, kD, kAbs>(a, D, &entries[0], count, pixel, box, owned, state,
                                    &sums[warp * kBatch * Layout::kStride]);
        __syncthreads();
      }
      for (int k = threadIdx.x; k < count * Layout::kValues; k += blockDim.x) {
        const int pair = k / Layout::kValues, value = k % Layout::kValues;
        T sum = T(0);
        for (int w = 0; seen && w < warps; ++w)
          sum += sums[(w * kBatch + pair) * Layout::kStride + value];
        T* place = rows + static_cast<int64_t>(slots[base + pair]) * Layout::kValues + value;
        *place = round == 0 ? sum : *place + sum;
      }
      // The next batch overwrites `entries` only; `sums` waits for its barrier.
    }
    __syncthreads();
  }
}

template <typename T, int kD, bool kAbs>
FL_D void store_gradient(const BlendArgs<T>& a, const BlendInputGradients<T>& g, int D, int32_t i,
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
  constexpr int kColor = kGeometry + (kAbs ? 2 : 0);
  FL_UNROLL
  for (int c = 0; c < kD; ++c)
    if (kD <= 4 || c < D) g.colors[static_cast<int64_t>(i) * D + c] = sum[kColor + c];
}

// A lane adds the rows of a splat seen by few tiles; a warp shares those seen by many.
template <typename T, int kD, bool kAbs>
FL_KERNEL FL_LAUNCH_BOUNDS(128, 4)
    add_rows_kernel(BlendArgs<T> a, BlendInputGradients<T> g, int64_t M, int D,
                    const int32_t* order, const int64_t* starts, const T* rows) {
  using Layout = Row<kD, kAbs>;
  constexpr int64_t kMany = 32;
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % 32;
  int64_t begin = 0, count = 0;
  int32_t splat = 0;
  if (rank < M) {
    begin = starts[rank];
    count = starts[rank + 1] - begin;
    splat = order[rank];
  }
  T sum[Layout::kValues] = {};
  const bool many = count > kMany;
  if (!many)
    for (int64_t row = begin; row < begin + count; ++row) {
      FL_UNROLL
      for (int k = 0; k < Layout::kValues; ++k) sum[k] += rows[row * Layout::kValues + k];
    }
  for (unsigned left = __ballot_sync(kFullWarp, many); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const int64_t first = __shfl_sync(kFullWarp, static_cast<long long>(begin), owner);
    const int64_t total = __shfl_sync(kFullWarp, static_cast<long long>(count), owner);
    T part[Layout::kValues] = {};
    for (int64_t row = first + lane; row < first + total; row += 32) {
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
  if (rank < M) store_gradient<T, kD, kAbs>(a, g, D, splat, sum);
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
  Tensor slots, order, starts;
};

Grouping group_pairs(const int32_t* ids, int64_t M, int64_t P, const Tensor& like, Stream stream) {
  Grouping out{new_empty(like, {P}, ScalarType::Int), new_empty(like, {M}, ScalarType::Int),
               new_empty(like, {M + 1}, ScalarType::Long)};
  const Scratch sorted(sizeof(uint32_t) * P), numbers(sizeof(int32_t) * P);
  const Scratch places(sizeof(int32_t) * P);
  FL_LAUNCH(count_up_kernel, blocks_for(M, 256), 256, 0, stream, output<int32_t>(out.order), M);
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
  using Layout = Row<kD, kAbs>;
  const Scratch rows(sizeof(T) * Layout::kValues * l.s.P);
  const int threads = block_threads(l);
  FL_LAUNCH((blend_backward_kernel<T, kD, kAbs>), l.tiles(), threads,
            sizeof(T) * (threads / 32) * kBatch * Layout::kStride, stream, a, l, out, lists.slots,
            rows.template data<T>());
  FL_LAUNCH((add_rows_kernel<T, kD, kAbs>), blocks_for(l.s.M, 128), 128, 0, stream, a, g, l.s.M,
            static_cast<int>(l.s.D), lists.order, lists.starts, rows.template data<T>());
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
  const int64_t tile = image * l.tiles_per_image() + y / l.tile_size * l.s.tile_width +
                       x / l.tile_size;
  int64_t at = firsts != nullptr ? firsts[pixel] : 0;
  int32_t count = 0;
  for_blended(a, l, tile, x, y, range_start, range_end, transmittances[pixel],
              [&](int64_t splat) {
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
    Tensor last =
        new_empty(like, {keep_state ? l.s.I * l.height * l.width : 0}, ScalarType::Int);
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
      lists = {input<int32_t>(own.slots), input<int32_t>(own.order), input<int64_t>(own.starts)};
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
    FL_LAUNCH((indices_kernel<T>), blocks_for(n, 128), 128, 0, stream, a, l, range_start,
              range_end, transmittances, static_cast<const int64_t*>(nullptr),
              counts.data<int32_t>(), none, none, none);
    exclusive_scan(counts.data<int32_t>(), firsts.data<int64_t>(), n + 1, stream);
    copy_to_host(&total, firsts.data<int64_t>() + n, sizeof(total), stream);
    const IndexLists lists = index_lists(like, total);
    FL_LAUNCH((indices_kernel<T>), blocks_for(n, 128), 128, 0, stream, a, l, range_start,
              range_end, transmittances, static_cast<const int64_t*>(firsts.data<int64_t>()),
              counts.data<int32_t>(), lists.splats, lists.pixels, lists.images);
    return lists;
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_blend", TORCH_BOX(&splat_blend<CudaBlend>));
  m.impl("splat_blend_backward", TORCH_BOX(&splat_blend_backward<CudaBlend>));
  m.impl("splat_indices_in_range", TORCH_BOX(&splat_indices_in_range<CudaBlend>));
}

}  // namespace fl::splat
