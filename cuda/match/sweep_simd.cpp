// SPDX-License-Identifier: Apache-2.0
//
// Plane sweep on the CPU: a band of rows stays in the second-level cache while every plane of every
// neighbour is warped over it. Loops run along a row and are left to the compiler's vectoriser;
// window sums slide down the rows, the census compares whole rows byte by byte.
#include "match/sweep_simd.h"

#include <cstring>

#include "core/simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using match::kBandInput;
using match::kCensusPairs;
using match::kMargin;
using match::kMaxBest;
using match::kRadius;
using match::kWindow;
using match::Offset;
using match::PackedImage;
using match::RowWarp;
using match::SweepArgs;
using match::SweepScratch;
using match::Warp;

typedef uint8_t Byte64 __attribute__((vector_size(64), aligned(64)));
typedef int16_t Half16 __attribute__((vector_size(32), aligned(32)));
typedef uint8_t Byte16 __attribute__((vector_size(16), aligned(16)));

template <typename V, typename T>
FL_SIMD V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename V, typename T>
FL_SIMD void store(T* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}

// Sixteen pixels of a row.
struct Lanes {
  using F = Float16;
  using I = Int16;
  FL_SIMD F larger(F a, F b) { return a > b ? a : b; }
  FL_SIMD F smaller(F a, F b) { return a < b ? a : b; }
  FL_SIMD I at_least(F a, F b) { return a >= b; }
  FL_SIMD F real(I a) { return __builtin_convertvector(a, F); }
  FL_SIMD I whole(F a) { return __builtin_convertvector(a, I); }
  FL_SIMD F root(F a) {
#if defined(__AVX512F__)
    const __m512 r = _mm512_sqrt_ps(load<__m512>(&a));
    return load<F>(&r);
#else
    for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
  }
};

FL_SIMD Int16 gather(const int32_t* base, Int16 at) {
#if defined(__AVX512F__)
  const __m512i found = _mm512_i32gather_epi32(load<__m512i>(&at), base, 4);
  return load<Int16>(&found);
#elif defined(__AVX2__)
  __m256i half[2];
  std::memcpy(half, &at, sizeof(half));
  for (__m256i& h : half) h = _mm256_i32gather_epi32(base, h, 4);
  Int16 r;
  std::memcpy(&r, half, sizeof(r));
  return r;
#else
  Int16 r;
  for (int i = 0; i < kLanes; ++i) r[i] = base[at[i]];
  return r;
#endif
}

// Which pixels are worked on: rows of the image, and the columns that its pixels that count need.
struct Band {
  int first_row, rows, begin, width;
};

template <typename T>
FL_SIMD T* row_of(T* rows, const SweepScratch& s, int row) {
  return rows + static_cast<int64_t>(row) * s.stride + kMargin;
}

FL_SIMD int clamped(int value, int count) {
  return value < 0 ? 0 : (value >= count ? count - 1 : value);
}

// Repeats a row's first and last value into what windows reach beyond it, and makes its bytes.
FL_SIMD void finish_row(int16_t* row, uint8_t* row8, int width) {
  for (int i = 1; i <= kRadius; ++i) {
    row[-i] = row[0];
    row[width - 1 + i] = row[width - 1];
  }
  for (int x = -kRadius; x < width + kRadius; ++x) row8[x] = static_cast<uint8_t>(row[x] >> 2);
}

FL_SIMD void load_reference(const SweepArgs& a, const SweepScratch& s, const Band& band) {
  for (int i = 0; i < band.rows + 2 * kRadius; ++i) {
    const int y = clamped(band.first_row - kRadius + i, a.height);
    const int16_t* source = a.reference + static_cast<int64_t>(y) * a.width + band.begin;
    int16_t* row = row_of(s.reference, s, i);
    for (int x = 0; x < band.width; ++x) row[x] = static_cast<int16_t>(match::grey_of(source[x]));
    finish_row(row, row_of(s.reference8, s, i), band.width);
  }
}

// Census bits of the reference, as bytes.
FL_SIMD void load_census(const SweepScratch& s, int rows, int width) {
  for (int i = 0; i < rows; ++i)
    for (int pair = 0; pair < kCensusPairs; ++pair) {
      const Offset o = match::census_offset(pair);
      const uint8_t* a = row_of(s.reference8, s, i + kRadius + o.dy) + o.dx;
      const uint8_t* b = row_of(s.reference8, s, i + kRadius - o.dy) - o.dx;
      uint8_t* bits = row_of(s.census, s, i * kCensusPairs + pair);
      for (int x = 0; x < width; ++x) bits[x] = a[x] > b[x] ? 255 : 0;
    }
}

struct VerticalSums {
  int32_t* __restrict__ j, * __restrict__ jj, * __restrict__ ij;
};

// Adds row i of the band's input to the sliding sums, and takes off the one that leaves.
FL_SIMD void slide(const VerticalSums& v, const SweepScratch& s, const int16_t* band, int i,
                   int width) {
  const int16_t* __restrict__ in = row_of(band, s, i);
  const int16_t* __restrict__ ref_in = row_of(s.reference, s, i);
  const int begin = -kRadius, end = width + kRadius;
  if (i < kWindow) {
    for (int x = begin; x < end; ++x) {
      const int32_t j = in[x];
      v.j[x] += j;
      v.jj[x] += j * j;
      v.ij[x] += j * ref_in[x];
    }
    return;
  }
  const int16_t* __restrict__ out = row_of(band, s, i - kWindow);
  const int16_t* __restrict__ ref_out = row_of(s.reference, s, i - kWindow);
  for (int x = begin; x < end; ++x) {
    const int32_t j = in[x], k = out[x];
    v.j[x] += j - k;
    v.jj[x] += j * j - k * k;
    v.ij[x] += j * ref_in[x] - k * ref_out[x];
  }
}

FL_SIMD void across(const int32_t* __restrict__ v, int32_t* __restrict__ window, int width) {
  static_assert(kRadius == 3, "seven columns");
  for (int x = 0; x < width; ++x)
    window[x] = v[x - 3] + v[x - 2] + v[x - 1] + v[x] + v[x + 1] + v[x + 2] + v[x + 3];
}

FL_SIMD VerticalSums cleared_sums(const SweepScratch& s) {
  std::memset(s.sums, 0, sizeof(int32_t) * 3 * s.stride);
  return {row_of(s.sums, s, 0), row_of(s.sums, s, 1), row_of(s.sums, s, 2)};
}

FL_SIMD void load_reference_sums(const SweepScratch& s, int rows, int width) {
  const VerticalSums v = cleared_sums(s);
  int32_t* squares = row_of(s.sums, s, 4);
  for (int i = 0; i < rows + 2 * kRadius; ++i) {
    slide(v, s, s.reference, i, width);
    const int row = i - 2 * kRadius;
    if (row < 0) continue;
    int32_t* __restrict__ sum = row_of(s.reference_sum, s, row);
    float* __restrict__ inverse = row_of(s.reference_inverse, s, row);
    across(v.j, sum, width);
    across(v.jj, squares, width);
    for (int x = 0; x < width; x += kLanes)
      store(inverse + x,
            match::inverse_deviation<Lanes>(load<Int16>(sum + x), load<Int16>(squares + x)));
  }
}

// One row through one plane into a neighbour. `seen` may be null. Whole vectors: rows have room.
FL_SIMD void warp_row(const PackedImage& image, const RowWarp& warp, int begin, int width,
                      int16_t* row, uint8_t* seen) {
  const int32_t* texels = reinterpret_cast<const int32_t*>(image.texels);
  const Float16 centre = {0.5f, 1.5f, 2.5f,  3.5f,  4.5f,  5.5f,  6.5f,  7.5f,
                          8.5f, 9.5f, 10.5f, 11.5f, 12.5f, 13.5f, 14.5f, 15.5f};
  for (int x = 0; x < width; x += kLanes) {
    const match::Landing<Lanes> p =
        match::land<Lanes>(warp, centre + static_cast<float>(begin + x), image.width, image.height);
    const Int16 at = p.y * image.width + p.x;
    const Int16 top = gather(texels, at), bottom = gather(texels + image.width, at);
    const Int16 value = match::blend_texels<Lanes>(top, bottom, p.fx, p.fy);
    store(row + x, __builtin_convertvector(value, Half16));
    if (seen != nullptr) {
      const Int16 all = p.inside & (match::texels_unseen(top, bottom) == 0);
      store(seen + x, __builtin_convertvector(all, Byte16));
    }
  }
}

FL_SIMD void warp_band(const SweepArgs& a, const SweepScratch& s, int neighbour, float w,
                       const Band& band) {
  Warp warp;
  std::memcpy(warp.m, a.warps + 12 * neighbour, sizeof(warp.m));
  for (int i = 0; i < band.rows + 2 * kRadius; ++i) {
    const int y = clamped(band.first_row - kRadius + i, a.height);
    const int row = i - kRadius;
    uint8_t* seen = row >= 0 && row < band.rows ? row_of(s.seen, s, row) : nullptr;
    int16_t* out = row_of(s.warped, s, i);
    warp_row(a.images[neighbour], match::row_warp(warp, w, y), band.begin, band.width, out, seen);
    finish_row(out, row_of(s.warped8, s, i), band.width);
  }
}

FL_SIMD void count_differing(const SweepScratch& s, int row, int width) {
  const uint8_t* census = row_of(s.census, s, row * kCensusPairs);
  const uint8_t* warped = row_of(s.warped8, s, row + kRadius);
  uint8_t* differing = row_of(s.differing, s, 0);
  for (int x = 0; x < width; x += 64) {
    Byte64 count = {};
    for (int pair = 0; pair < kCensusPairs; ++pair) {
      const Offset o = match::census_offset(pair);
      const int64_t step = static_cast<int64_t>(o.dy) * s.stride + o.dx;
      const Byte64 greater = reinterpret_cast<Byte64>(load<Byte64>(warped + x + step) >
                                                      load<Byte64>(warped + x - step));
      count -= greater ^ load<Byte64>(census + static_cast<int64_t>(pair) * s.stride + x);
    }
    store(differing + x, count);
  }
}

// Keeps the `best` smallest costs of each pixel, in ascending order.
FL_SIMD void keep_best(const SweepScratch& s, int row, int best, uint8_t* __restrict__ cost,
                       int width) {
  for (int k = 0; k < best; ++k) {
    uint8_t* __restrict__ kept = row_of(s.chosen, s, row * kMaxBest + k);
    for (int x = 0; x < width; ++x) {
      const uint8_t a = kept[x], b = cost[x];
      kept[x] = a < b ? a : b;
      cost[x] = a < b ? b : a;
    }
  }
}

FL_SIMD void compare_band(const SweepArgs& a, const SweepScratch& s, const Band& band) {
  const int width = band.width;
  const VerticalSums v = cleared_sums(s);
  int32_t* __restrict__ j = row_of(s.sums, s, 3);
  int32_t* __restrict__ jj = row_of(s.sums, s, 4);
  int32_t* __restrict__ ij = row_of(s.sums, s, 5);
  for (int i = 0; i < band.rows + 2 * kRadius; ++i) {
    slide(v, s, s.warped, i, width);
    const int row = i - 2 * kRadius;
    if (row < 0) continue;
    across(v.j, j, width);
    across(v.jj, jj, width);
    across(v.ij, ij, width);
    count_differing(s, row, width);
    const int32_t* sum = row_of(s.reference_sum, s, row);
    const float* inverse = row_of(s.reference_inverse, s, row);
    const uint8_t* seen = row_of(s.seen, s, row);
    uint8_t* differing = row_of(s.differing, s, 0);
    for (int x = 0; x < width; x += kLanes) {
      const Int16 bits = __builtin_convertvector(load<Byte16>(differing + x), Int16);
      const Int16 cost = match::window_cost<Lanes>(load<Int16>(sum + x), load<Float16>(inverse + x),
                                                   load<Int16>(j + x), load<Int16>(jj + x),
                                                   load<Int16>(ij + x), bits);
      const Byte16 known = load<Byte16>(seen + x);
      const Byte16 unseen = Byte16{} + static_cast<uint8_t>(match::kUnseenCost);
      store(differing + x, (__builtin_convertvector(cost, Byte16) & known) | (unseen & ~known));
    }
    keep_best(s, row, a.best, differing, width);
  }
}

FL_SIMD void average_best(const SweepArgs& a, const SweepScratch& s, int plane, const Band& band) {
  for (int row = 0; row < band.rows; ++row) {
    uint8_t* __restrict__ out = row_of(s.costs, s, row * a.planes + plane);
    const uint8_t* __restrict__ kept = row_of(s.chosen, s, row * kMaxBest);
    for (int x = 0; x < band.width; ++x) {
      int sum = 0;
      for (int k = 0; k < a.best; ++k) sum += kept[k * s.stride + x];
      out[x] = static_cast<uint8_t>((sum + a.best / 2) / a.best);
    }
  }
}

// From planes of pixels to pixels of planes.
FL_SIMD void transpose_row(const SweepArgs& a, const SweepScratch& s, const Band& band, int row,
                           uint8_t* out) {
  constexpr int kBlock = 16;
  const uint8_t* costs = row_of(s.costs, s, row * a.planes);
  for (int x0 = 0; x0 < band.width; x0 += kBlock) {
    const int count = band.width - x0 < kBlock ? band.width - x0 : kBlock;
    for (int d = 0; d < a.planes; ++d)
      for (int i = 0; i < count; ++i)
        out[static_cast<int64_t>(band.begin + x0 + i) * a.planes + d] =
            costs[static_cast<int64_t>(d) * s.stride + x0 + i];
  }
}

FL_SIMD void blend_prior(const SweepArgs& a, const Band& band, int y, uint8_t* row) {
  const match::Interpolation v = match::interpolate(y, a.height, a.prior_height);
  const int64_t pitch = static_cast<int64_t>(a.prior_width) * a.planes;
  for (int x = band.begin; x < band.begin + band.width; ++x) {
    const match::Interpolation h = match::interpolate(x, a.width, a.prior_width);
    const uint8_t* __restrict__ p = a.prior + v.first * pitch + int64_t{h.first} * a.planes;
    const int64_t right = static_cast<int64_t>(h.second - h.first) * a.planes;
    const int64_t down = (v.second - v.first) * pitch;
    uint8_t* __restrict__ own = row + static_cast<int64_t>(x) * a.planes;
    for (int d = 0; d < a.planes; ++d) {
      const int prior = match::interpolate_cost(p[d], p[d + right], p[d + down],
                                                p[d + right + down], h.share, v.share);
      own[d] = static_cast<uint8_t>(match::blend_costs(own[d], prior, a.prior_share));
    }
  }
}

// The columns of the pixels that count, and as many beside them as their windows reach; none if
// width is 0.
FL_SIMD Band counting_band(const SweepArgs& a, int first_row, int rows) {
  int least = a.width, most = -1;
  for (int row = 0; row < rows; ++row) {
    const int16_t* pixels = a.reference + static_cast<int64_t>(first_row + row) * a.width;
    int x = 0;
    while (x < least && pixels[x] < 0) ++x;
    least = x;
    x = a.width - 1;
    while (x > most && pixels[x] < 0) --x;
    most = x;
  }
  if (most < least) return {first_row, rows, 0, 0};
  const int begin = least > kRadius ? least - kRadius : 0;
  const int end = most + kRadius < a.width ? most + kRadius + 1 : a.width;
  return {first_row, rows, begin, end - begin};
}

FL_SIMD void compare_all(const SweepArgs& a, const SweepScratch& s, const Band& band) {
  load_reference(a, s, band);
  load_census(s, band.rows, band.width);
  load_reference_sums(s, band.rows, band.width);
  for (int plane = 0; plane < a.planes; ++plane) {
    std::memset(s.chosen, 255, static_cast<std::size_t>(band.rows) * kMaxBest * s.stride);
    for (int n = 0; n < a.neighbours; ++n) {
      warp_band(a, s, n, a.inverse_depths[plane], band);
      compare_band(a, s, band);
    }
    average_best(a, s, plane, band);
  }
}

}  // namespace

void sweep_band(const SweepArgs& a, const SweepScratch& s, int first_row, int rows) {
  const Band band = counting_band(a, first_row, rows);
  if (band.width > 0) compare_all(a, s, band);
  for (int row = 0; row < rows; ++row) {
    const int64_t first = static_cast<int64_t>(first_row + row) * a.width;
    uint8_t* out = a.cost + first * a.planes;
    if (band.width > 0) {
      transpose_row(a, s, band, row, out);
      if (a.prior != nullptr) blend_prior(a, band, first_row + row, out);
    }
    for (int x = 0; x < a.width; ++x)
      if (a.reference[first + x] < 0)
        std::memset(out + static_cast<int64_t>(x) * a.planes, match::kUnseenCost, a.planes);
  }
}

}  // namespace FL_ISA
}  // namespace fl
