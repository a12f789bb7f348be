// SPDX-License-Identifier: Apache-2.0
//
// Convolution of bfloat16 by tile registers: rows of one tap are gathered into a buffer in the L1
// cache, multiplied there two tiles of rows by two of output channels at a time, and the products
// added to the rows' sums. A product is of up to kPanel pairs of input channels; what it is added
// to is the sum of those before, in their order, whatever rows share its tiles.
#include <cstring>

#include "core/tile_registers.h"
#include "sparse/convolution_simd.h"
#include "sparse/convolution_tiles.h"

namespace fl {
namespace FL_ISA {
namespace {

// Whoever has tile registers has AVX-512 too.
#if defined(FL_AMX) && defined(__AVX512F__)
#define FL_AMX_KERNEL
#endif

using sparse::PairConvolution;
using Block = BlockArgs<float, BFloat16Pair>;

constexpr int kTilePairs = kTileBytes / static_cast<int>(sizeof(BFloat16Pair));
constexpr int kColumns = kTileBytes / static_cast<int>(sizeof(float));
constexpr int kPanel = 4 * kTilePairs;
constexpr int kGathered = 4 * kTileRows;
constexpr int kBlockTiles = 2;  // of rows, of columns
constexpr int kProductStride = kBlockTiles * kColumns;

// The rows of a chunk, channels [from, from + depth) of each; the last tile is filled with zeros.
struct Panel {
  alignas(kTileBytes) BFloat16Pair rows[kGathered][kPanel];
  int tiles;

  FL_HD void gather(const BFloat16Pair* const* from, int count, int64_t channel, int64_t left) {
    const int depth = static_cast<int>(left < kPanel ? left : kPanel);
    tiles = (depth + kTilePairs - 1) / kTilePairs;
    const int whole = depth / kTilePairs, rest = depth % kTilePairs;
    for (int i = 0; i < count; ++i) {
      const BFloat16Pair* row = from[i] + channel;
      for (int t = 0; t < whole; ++t)
        std::memcpy(rows[i] + t * kTilePairs, row + t * kTilePairs, kTileBytes);
      if (rest == 0) continue;
      BFloat16Pair* last = rows[i] + whole * kTilePairs;
      std::memset(last, 0, kTileBytes);
      std::memcpy(last, row + whole * kTilePairs, rest * sizeof(BFloat16Pair));
    }
  }
};

// One or two tiles of rows by one or two of columns, whose weights are [depth, columns].
template <int kRowTiles, int kColumnTiles, typename Tiles>
FL_SIMD void multiply_tiles(Tiles& tiles, const BFloat16Pair (*rows)[kPanel], int depth_tiles,
                            const BFloat16Pair* weight, float* product) {
  constexpr int64_t row_stride = sizeof(BFloat16Pair) * kPanel;
  constexpr int64_t weight_stride = kTileBytes * kColumnTiles;
  constexpr int64_t product_stride = sizeof(float) * kProductStride;
  constexpr bool two_rows = kRowTiles == 2, two_columns = kColumnTiles == 2;
  float* lower = product + kTileRows * kProductStride;
  tiles.template zero<0>();
  if constexpr (two_columns) tiles.template zero<1>();
  if constexpr (two_rows) tiles.template zero<2>();
  if constexpr (two_rows && two_columns) tiles.template zero<3>();
  for (int t = 0; t < depth_tiles; ++t) {
    const BFloat16Pair* w = weight + t * kTileRows * kColumnTiles * kColumns;
    tiles.template load<4>(rows[0] + t * kTilePairs, row_stride);
    tiles.template load<6>(w, weight_stride);
    tiles.template multiply_bf16<0, 4, 6>();
    if constexpr (two_columns) {
      tiles.template load<7>(w + kColumns, weight_stride);
      tiles.template multiply_bf16<1, 4, 7>();
    }
    if constexpr (two_rows) {
      tiles.template load<5>(rows[kTileRows] + t * kTilePairs, row_stride);
      tiles.template multiply_bf16<2, 5, 6>();
      if constexpr (two_columns) tiles.template multiply_bf16<3, 5, 7>();
    }
  }
  tiles.template store<0>(product, product_stride);
  if constexpr (two_columns) tiles.template store<1>(product + kColumns, product_stride);
  if constexpr (two_rows) tiles.template store<2>(lower, product_stride);
  if constexpr (two_rows && two_columns) tiles.template store<3>(lower + kColumns, product_stride);
}

template <int kColumnTiles>
FL_SIMD void add_products(const float* product, int count, float* const* sums, int64_t column) {
  for (int i = 0; i < count; ++i) {
    float* sum = sums[i] + column;
    const float* more = product + i * kProductStride;
#pragma GCC unroll 8
    for (int c = 0; c < kColumnTiles * kColumns; c += static_cast<int>(kWidth<float>))
      store(sum + c, load(sum + c) + load(more + c));
  }
}

template <typename Tiles>
FL_SIMD void multiply_panel(Tiles& tiles, const Panel& panel, int count, const BFloat16Pair* weight,
                            float* const* sums, int64_t column, int columns) {
  alignas(kTileBytes) float product[kBlockTiles * kTileRows * kProductStride];
  with_constant<kBlockTiles>(columns, [&](auto width) {
    for (int first = 0; first < count; first += kBlockTiles * kTileRows) {
      const int left = count - first;
      const int here = left < kBlockTiles * kTileRows ? left : kBlockTiles * kTileRows;
      with_constant<kBlockTiles>(here > kTileRows ? 2 : 1, [&](auto height) {
        multiply_tiles<height.value, width.value>(tiles, panel.rows + first, panel.tiles, weight,
                                                  product);
      });
      add_products<width.value>(product, here, sums + first, column);
    }
  });
}

template <typename Tiles>
FL_SIMD void multiply_gathered(Tiles& tiles, const Block& a, const Chunk& chunk, const Chunk& next,
                               Panel& panel) {
  const Channels& c = a.channels;
  const BFloat16Pair* rows[kGathered];
  float* sums[kGathered];
  place_rows(a, chunk, rows, sums);
  constexpr int64_t strip = kBlockTiles * kColumns;
  const int64_t panels = (c.in + kPanel - 1) / kPanel, strips = (c.out + strip - 1) / strip;
  Prefetch<BFloat16Pair> prefetch(a.features, c.all_in(), a.in_rows + next.begin, next.count,
                                  c.groups * panels * strips);
  const BFloat16Pair* weight = a.weight + chunk.tap * c.packed<float>();
  for (int64_t g = 0; g < c.groups; ++g)
    for (int64_t from = 0; from < c.in; from += kPanel) {
      panel.gather(rows, chunk.count, g * c.in + from, c.in - from);
      for (int64_t column = 0; column < c.out; column += strip) {
        const int columns = c.out - column > kColumns ? 2 : 1;
        const int64_t at = g * sparse::padded<float>(c.out) + column;
        prefetch.some();
        multiply_panel(tiles, panel, chunk.count, weight + at * c.depth + from * columns * kColumns,
                       sums, at, columns);
      }
    }
}

template <typename Tiles>
void convolve_block_by(const Block& a) {
  Tiles tiles;
  Panel panel;
  Chunk chunk = chunk_at<kGathered, kTileRows>(a, 0, a.begins[0]);
  while (chunk.count > 0) {
    const Chunk next = chunk_at<kGathered, kTileRows>(a, chunk.tap, chunk.begin + chunk.count);
    multiply_gathered(tiles, a, chunk, next, panel);
    chunk = next;
  }
}

}  // namespace

bool has_tile_registers() {
#if defined(FL_AMX_KERNEL)
  return AmxTiles::available();
#else
  return false;
#endif
}

PairConvolution tile_convolution() {
  PairConvolution kernel{pack_weight_pairs<kColumns>, convolve_block_by<PlainTiles>, kTilePairs};
#if defined(FL_AMX_KERNEL)
  if (AmxTiles::available()) kernel.convolve = convolve_block_by<AmxTiles>;
#endif
  return kernel;
}

}  // namespace FL_ISA
}  // namespace fl
