// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of blending: threads over tiles. float32 goes through the SIMD kernels of
// blend_simd.cpp; float64 (and more than 64 channels) through the scalar ones here, which are
// also the plainest statement of the method.
//
// Backward: one thread adds each pair's gradient straight to its splat. Several threads store the
// pairs' gradients and then add each splat's in tile order: the same sums in the same order, so
// that the gradient does not depend on the number of threads.
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/bin.h"
#include "splat/blend_simd.h"
#include "splat/draw_parts.h"

namespace fl::splat {
namespace {

// Bounds that a kernel could read outside of, if the lists were not those of splat_bin.
void check_lists(const TileLayout& layout, const int32_t* ids, const char* op) {
  int64_t before = 0;
  for (int64_t tile = 0; tile < layout.tiles(); ++tile) {
    const int64_t at = layout.offsets[tile];
    STD_TORCH_CHECK(at >= before && at <= layout.s.P, op, ": offsets: expected values rising from ",
                    "0 to ", layout.s.P, ", got ", at, " at tile ", tile);
    before = at;
  }
  int32_t low = 0, high = -1;
  for (int64_t i = 0; i < layout.s.P; ++i) {
    low = std::min(low, ids[i]);
    high = std::max(high, ids[i]);
  }
  STD_TORCH_CHECK(low >= 0 && high < layout.s.M, op, ": flatten_ids: expected 0 to ",
                  layout.s.M - 1, ", got ", low < 0 ? low : high);
}

std::vector<SplatRecord> make_records(const BlendArgs<float>& a, const BlendSizes& s) {
  std::vector<SplatRecord> records(s.M);
  parallel_for(0, s.M, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      SplatRecord& r = records[i];
      r.x = a.means2d[2 * i];
      r.y = a.means2d[2 * i + 1];
      r.A = a.conics[3 * i];
      r.B = a.conics[3 * i + 1];
      r.C = a.conics[3 * i + 2];
      r.opacity = a.opacities[i];
      // A little beyond the threshold, so that the exact test on alpha decides.
      r.max_sigma = max_sigma(r.opacity) + 1e-3f;
      const float det = difference_of_products(r.A, r.C, r.B, r.B);
      const float extent = std::sqrt(2.0f * r.max_sigma * r.A / det);
      r.y_extent = extent < 1e9f ? extent * 1.0001f + 1e-3f : 1e9f;
      if (!(r.opacity >= static_cast<float>(kAlphaThreshold))) r.y_extent = -1e9f;
      for (int64_t c = 0; c < kRecordColors; ++c)
        r.color[c] = c < s.D ? a.colors[s.D * i + c] : 0.0f;
    }
  });
  return records;
}

BlendTile make_tile(const BlendArgs<float>& a, const TileLayout& layout,
                    const std::vector<SplatRecord>& records, int64_t tile) {
  const bool shown = layout.masks == nullptr || layout.masks[tile];
  return {records.data(),
          a.colors,
          a.ids + layout.begin(tile),
          shown ? layout.end(tile) - layout.begin(tile) : 0,
          static_cast<int>(layout.s.D),
          layout.x0(tile),
          layout.y0(tile),
          layout.columns(tile),
          layout.rows(tile),
          static_cast<int>(layout.tile_size),
          a.alpha_cap,
          static_cast<int>(layout.width),
          a.backgrounds != nullptr ? a.backgrounds + layout.image(tile) * layout.s.D : nullptr};
}

// True where the vector kernels apply.
bool use_simd(float, const BlendSizes& s) { return s.D <= kMaxChannels; }
bool use_simd(double, const BlendSizes&) { return false; }

void forward_simd(const BlendArgs<float>& a, const TileLayout& layout, float* render,
                  float* alphas) {
  const std::vector<SplatRecord> records = make_records(a, layout.s);
  const auto kernel = FL_ISA_SELECT(blend_tile_forward);
  const int64_t pixels = layout.width * layout.height;
  parallel_dynamic(layout.tiles(), [&](int64_t tile, int64_t) {
    const int64_t first = layout.image(tile) * pixels;
    kernel(make_tile(a, layout, records, tile), render + first * layout.s.D, alphas + first);
  });
}
void forward_simd(const BlendArgs<double>&, const TileLayout&, double*, double*) {}

template <typename T>
void forward_scalar(const BlendArgs<T>& a, const TileLayout& layout, T* render, T* alphas) {
  const int64_t D = layout.s.D;
  parallel_dynamic(layout.tiles(), [&](int64_t tile, int64_t) {
    const bool shown = layout.masks == nullptr || layout.masks[tile];
    for (int y = layout.y0(tile); y < layout.y0(tile) + layout.rows(tile); ++y)
      for (int x = layout.x0(tile); x < layout.x0(tile) + layout.columns(tile); ++x) {
        const int64_t pixel = (layout.image(tile) * layout.height + y) * layout.width + x;
        T* color = render + pixel * D;
        for (int64_t c = 0; c < D; ++c) color[c] = T(0);
        T transmittance = T(1);
        for (int64_t k = layout.begin(tile); shown && k < layout.end(tile); ++k) {
          const int64_t i = a.ids[k];
          Fragment<T> f;
          const Step step = evaluate(a, i, x + T(0.5), y + T(0.5), transmittance, f);
          if (step == Step::stop) break;
          if (step == Step::skip) continue;
          for (int64_t c = 0; c < D; ++c) color[c] += transmittance * f.alpha * a.colors[D * i + c];
          transmittance = f.next;
        }
        alphas[pixel] = T(1) - transmittance;
        if (a.backgrounds == nullptr) continue;
        for (int64_t c = 0; c < D; ++c)
          color[c] += transmittance * a.backgrounds[layout.image(tile) * D + c];
      }
  });
}

// Where each pair's gradient goes: rows of one splat lie together, in tile order.
struct PairSlots {
  const int32_t* slot;    // [P]
  const int64_t* starts;  // [M + 1]
  std::vector<int32_t> own_slot;
  std::vector<int64_t> own_starts;
};

// For lists that did not come from splat_bin.
void group_pairs(const int32_t* ids, int64_t M, int64_t P, PairSlots& slots) {
  slots.own_starts.assign(M + 1, 0);
  slots.own_slot.resize(P);
  for (int64_t k = 0; k < P; ++k) ++slots.own_starts[ids[k] + 1];
  for (int64_t i = 0; i < M; ++i) slots.own_starts[i + 1] += slots.own_starts[i];
  std::vector<int64_t> next(slots.own_starts.begin(), slots.own_starts.end() - 1);
  for (int64_t k = 0; k < P; ++k) slots.own_slot[k] = static_cast<int32_t>(next[ids[k]]++);
  slots.slot = slots.own_slot.data();
  slots.starts = slots.own_starts.data();
}

void check_slot_values(const PairSlots& slots, int64_t M, int64_t P, const char* op) {
  std::atomic<bool> good{slots.starts[0] == 0 && slots.starts[M] == P};
  parallel_for(0, M, 1 << 13, [&](int64_t begin, int64_t end) {
    bool own = true;
    for (int64_t r = begin; r < end; ++r) own &= slots.starts[r] <= slots.starts[r + 1];
    if (!own) good = false;
  });
  parallel_for(0, P, 1 << 14, [&](int64_t begin, int64_t end) {
    bool own = true;
    for (int64_t k = begin; k < end; ++k) own &= slots.slot[k] >= 0 && slots.slot[k] < P;
    if (!own) good = false;
  });
  STD_TORCH_CHECK(good.load(), op, ": slots, starts: expected those of splat_bin");
}

template <typename T>
void store_gradient(const T* row, int64_t i, int64_t D, const BlendInputGradients<T>& g) {
  for (int k = 0; k < 2; ++k) g.means2d[2 * i + k] = row[k];
  if (g.means2d_abs != nullptr)
    for (int k = 0; k < 2; ++k) g.means2d_abs[2 * i + k] = row[2 + k];
  for (int k = 0; k < 3; ++k) g.conics[3 * i + k] = row[4 + k];
  g.opacities[i] = row[7];
  for (int64_t c = 0; c < D; ++c) g.colors[D * i + c] = row[kPairGeometry + c];
}

template <typename T>
void store_sums(const T* sums, int64_t M, int64_t D, const BlendInputGradients<T>& g) {
  parallel_for(0, M, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) store_gradient(sums + i * (kPairGeometry + D), i, D, g);
  });
}

// Every gradient is written: zero where no tile lists the splat.
// kD channels, or `channels` where kD is 0.
template <int kD>
void store_pair_sums(const PairSlots& slots, const float* pairs, int64_t M, int64_t channels,
                     const BlendInputGradients<float>& g) {
  const int64_t D = kD > 0 ? kD : channels, width = kPairGeometry + D;
  parallel_for(0, M, 1 << 10, [&](int64_t begin, int64_t end) {
    float sum[kPairGeometry + (kD > 0 ? kD : kMaxChannels)];
    for (int64_t i = begin; i < end; ++i) {
      std::fill_n(sum, width, 0.0f);
      for (int64_t row = slots.starts[i]; row < slots.starts[i + 1]; ++row)
        for (int64_t k = 0; k < width; ++k) sum[k] += pairs[row * width + k];
      store_gradient(sum, i, D, g);
    }
  });
}

void backward_simd(const BlendArgs<float>& a, const TileLayout& layout,
                   const BlendOutputs<float>& out, PairSlots& slots, const Tensor& like,
                   const BlendInputGradients<float>& g) {
  const std::vector<SplatRecord> records = make_records(a, layout.s);
  const auto kernel = FL_ISA_SELECT(blend_tile_backward);
  const int64_t pixels = layout.width * layout.height, D = layout.s.D, width = kPairGeometry + D;
  const bool direct = thread_count() == 1;
  std::unique_ptr<float[]> pairs;
  Tensor sums = new_zeros(like, {direct ? layout.s.M : 0, width});
  if (!direct) {
    if (slots.slot == nullptr) group_pairs(a.ids, layout.s.M, layout.s.P, slots);
    check_slot_values(slots, layout.s.M, layout.s.P, "splat_blend_backward");
    pairs.reset(new float[layout.s.P * width]);
    // Pairs before the first tile's run belong to no tile, and are added all the same.
    for (int64_t k = 0; layout.tiles() > 0 && k < layout.begin(0); ++k)
      std::fill_n(pairs.get() + slots.slot[k] * width, width, 0.0f);
    parallel_for(0, layout.tiles(), 1 << 10, [&](int64_t begin, int64_t end) {
      // A masked tile's kernel sees no pairs, so its rows are cleared here.
      for (int64_t tile = begin; tile < end; ++tile)
        if (layout.masks != nullptr && !layout.masks[tile])
          for (int64_t k = layout.begin(tile); k < layout.end(tile); ++k)
            std::fill_n(pairs.get() + slots.slot[k] * width, width, 0.0f);
    });
  }
  parallel_dynamic(layout.tiles(), [&](int64_t tile, int64_t) {
    const int64_t first = layout.image(tile) * pixels;
    const BlendGradients gradients{out.render + first * D,
                                   out.alphas + first,
                                   out.g_render + first * D,
                                   out.g_alphas + first,
                                   output<float>(sums),
                                   pairs.get(),
                                   direct ? nullptr : slots.slot + layout.begin(tile),
                                   g.means2d_abs != nullptr};
    kernel(make_tile(a, layout, records, tile), gradients);
  });
  if (direct)
    store_sums(input<float>(sums), layout.s.M, D, g);
  else if (D == 3)
    store_pair_sums<3>(slots, pairs.get(), layout.s.M, D, g);
  else
    store_pair_sums<0>(slots, pairs.get(), layout.s.M, D, g);
}
void backward_simd(const BlendArgs<double>&, const TileLayout&, const BlendOutputs<double>&,
                   PairSlots&, const Tensor&, const BlendInputGradients<double>&) {}

template <typename T>
void backward_pixel(const BlendArgs<T>& a, const TileLayout& layout, const BlendOutputs<T>& out,
                    int64_t tile, int64_t pixel, T px, T py, T* sums) {
  const int64_t D = layout.s.D, width = kPairGeometry + D;
  const T* v = out.g_render + pixel * D;
  T rest = -(T(1) - out.alphas[pixel]) * out.g_alphas[pixel], transmittance = T(1);
  for (int64_t c = 0; c < D; ++c) rest += v[c] * out.render[pixel * D + c];
  for (int64_t k = layout.begin(tile); k < layout.end(tile); ++k) {
    const int64_t i = a.ids[k];
    Fragment<T> f;
    const Step step = evaluate(a, i, px, py, transmittance, f);
    if (step == Step::stop) return;
    if (step == Step::skip) continue;
    const T weight = transmittance * f.alpha;
    T along = T(0);
    T* sum = sums + i * width;
    for (int64_t c = 0; c < D; ++c) {
      along += a.colors[D * i + c] * v[c];
      sum[kPairGeometry + c] += weight * v[c];
    }
    rest -= weight * along;
    const T g_alpha = transmittance * along - rest / (T(1) - f.alpha);
    transmittance = f.next;
    if (f.capped) continue;
    const T g = -f.alpha * g_alpha;
    const T dx = px - a.means2d[2 * i], dy = py - a.means2d[2 * i + 1];
    const Moments<T> m{g, g * dx, g * dy, g * dx * dx, g * dx * dy, g * dy * dy};
    const Vec2<T> mean =
        mean_gradient(m, a.conics[3 * i], a.conics[3 * i + 1], a.conics[3 * i + 2]);
    const Vec3<T> conic = conic_gradient(m);
    const T values[kPairGeometry] = {
        mean.x,  mean.y,  std::abs(mean.x), std::abs(mean.y),
        conic.x, conic.y, conic.z,          opacity_gradient(m, a.opacities[i])};
    for (int q = 0; q < kPairGeometry; ++q) sum[q] += values[q];
  }
}

// One thread: the float64 path serves checks, not speed, and must not depend on the schedule.
template <typename T>
void backward_scalar(const BlendArgs<T>& a, const TileLayout& layout, const BlendOutputs<T>& out,
                     T* sums) {
  for (int64_t tile = 0; tile < layout.tiles(); ++tile) {
    if (layout.masks != nullptr && !layout.masks[tile]) continue;
    for (int y = layout.y0(tile); y < layout.y0(tile) + layout.rows(tile); ++y)
      for (int x = layout.x0(tile); x < layout.x0(tile) + layout.columns(tile); ++x) {
        const int64_t pixel = (layout.image(tile) * layout.height + y) * layout.width + x;
        backward_pixel(a, layout, out, tile, pixel, x + T(0.5), y + T(0.5), sums);
      }
  }
}

struct CpuBlend {
  template <typename T>
  static Tensor forward(const BlendArgs<T>& a, const TileLayout& layout, bool, T* render, T* alphas,
                        const Tensor& like) {
    check_lists(layout, a.ids, "splat_blend");
    if (use_simd(T{}, layout.s))
      forward_simd(a, layout, render, alphas);
    else
      forward_scalar(a, layout, render, alphas);
    return new_empty(like, {0}, ScalarType::Int);
  }

  template <typename T>
  static void backward(const BlendArgs<T>& a, const TileLayout& layout, const BlendOutputs<T>& out,
                       const BlendLists& lists, const BlendInputGradients<T>& g,
                       const Tensor& like) {
    check_lists(layout, a.ids, "splat_blend_backward");
    if (use_simd(T{}, layout.s)) {
      PairSlots slots{lists.slots, lists.starts, {}, {}};
      backward_simd(a, layout, out, slots, like, g);
    } else {
      const Tensor sums = new_zeros(like, {layout.s.M, kPairGeometry + layout.s.D});
      backward_scalar(a, layout, out, output<T>(sums));
      store_sums(input<T>(sums), layout.s.M, layout.s.D, g);
    }
  }

  template <typename T>
  static IndexLists indices(const BlendArgs<T>& a, const TileLayout& layout, int64_t range_start,
                            int64_t range_end, const T* transmittances, const Tensor& like) {
    check_lists(layout, a.ids, "splat_indices_in_range");
    const int64_t pixels = layout.width * layout.height;
    std::vector<std::vector<int64_t>> splats(pixels * layout.s.I);
    parallel_dynamic(layout.tiles(), [&](int64_t tile, int64_t) {
      for (int y = layout.y0(tile); y < layout.y0(tile) + layout.rows(tile); ++y)
        for (int x = layout.x0(tile); x < layout.x0(tile) + layout.columns(tile); ++x) {
          const int64_t pixel = layout.image(tile) * pixels + y * layout.width + x;
          for_blended(a, layout, tile, x, y, range_start, range_end, transmittances[pixel],
                      [&](int64_t splat) { splats[pixel].push_back(splat); });
        }
    });
    int64_t total = 0;
    for (const auto& own : splats) total += static_cast<int64_t>(own.size());
    const IndexLists lists = index_lists(like, total);
    int64_t at = 0;
    for (int64_t pixel = 0; pixel < pixels * layout.s.I; ++pixel)
      for (const int64_t splat : splats[pixel]) lists.store(at++, splat, pixel, pixels);
    return lists;
  }
};

}  // namespace

BlendResult blend_here(const BlendInputs& in, bool keep_state) {
  return blend_forward<CpuBlend>(in, keep_state, "splat_draw");
}

BlendedGradients blend_backward_here(const BlendInputs& in, const BlendResult& out,
                                     const Tensor& g_render, const Tensor& g_alphas, bool absgrad) {
  return blend_backward<CpuBlend>(in, out, g_render, g_alphas, absgrad, "splat_draw_backward");
}

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_blend", TORCH_BOX(&splat_blend<CpuBlend>));
  m.impl("splat_blend_backward", TORCH_BOX(&splat_blend_backward<CpuBlend>));
  m.impl("splat_indices_in_range", TORCH_BOX(&splat_indices_in_range<CpuBlend>));
}

}  // namespace fl::splat
