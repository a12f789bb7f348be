// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of binning: sort the visible splats by depth once, list their tiles in that order,
// and place each listed pair behind the others of its tile (a counting sort, stable, so that depth
// order survives). Each thread lists a run of splats into a buffer of its own.
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "splat/args.h"
#include "splat/bin.h"
#include "splat/bin_args.h"

namespace fl::splat {
namespace {

struct Pair {
  int32_t tile, splat;
};

template <typename T>
bool is_visible(const BinArgs<T>& a, int64_t i) {
  return a.radii[2 * i] > 0 && a.radii[2 * i + 1] > 0 &&
         (a.opacities == nullptr || a.opacities[i] >= T(kAlphaThreshold));
}

// All splats: the visible ones nearest first, equal depths in their own order; then the others.
template <typename T>
int64_t sort_by_depth(const BinArgs<T>& a, int32_t* order) {
  std::vector<int32_t> visible;
  int64_t hidden = a.M;
  for (int64_t i = a.M - 1; i >= 0; --i)
    if (!is_visible(a, i)) order[--hidden] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < a.M; ++i)
    if (is_visible(a, i)) visible.push_back(static_cast<int32_t>(i));
  const int64_t count = static_cast<int64_t>(visible.size());
  std::vector<uint32_t> keys(count), sorted_keys(count);
  parallel_for(0, count, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const float depth = static_cast<float>(a.depths[visible[k]]);
      uint32_t bits;
      std::memcpy(&bits, &depth, sizeof(bits));
      keys[k] = depth_key(bits);
    }
  });
  cpu::sort_pairs(keys.data(), sorted_keys.data(), visible.data(), order, count, 0, 32);
  return count;
}

template <typename T>
void list_tiles(const BinArgs<T>& a, int32_t i, std::vector<Pair>& pairs, int32_t* counts,
                int32_t* tiles_per_splat) {
  const T x = a.means2d[2 * i], y = a.means2d[2 * i + 1];
  const TileRange range = tile_rectangle(x, y, a.radii[2 * i], a.radii[2 * i + 1], a.grid);
  const int64_t image = a.image_ids != nullptr ? a.image_ids[i] : i / a.splats_per_image;
  const int64_t first = image * a.grid.width * a.grid.height;
  const bool exact = a.conics != nullptr;
  Ellipse<T> ellipse{};
  if (exact)
    ellipse = make_ellipse(x, y, a.conics[3 * i], a.conics[3 * i + 1], a.conics[3 * i + 2],
                           a.opacities[i]);
  int32_t total = 0;
  for (int ty = range.y_begin; ty < range.y_end; ++ty) {
    const Span span = exact ? row_span(ellipse, ty, range, a.grid)
                            : Span{range.x_begin, range.x_end};
    for (int tx = span.begin; tx < span.end; ++tx) {
      const int32_t tile = static_cast<int32_t>(first + static_cast<int64_t>(ty) * a.grid.width + tx);
      pairs.push_back({tile, i});
      ++counts[tile];
    }
    total += span.end > span.begin ? span.end - span.begin : 0;
  }
  tiles_per_splat[i] = total;
}

// Turns each thread's counts into the places of its first pairs, and fills `offsets`.
int64_t place_tiles(std::vector<std::vector<int32_t>>& counts, int64_t tiles, int32_t* offsets) {
  int64_t next = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    offsets[tile] = static_cast<int32_t>(next);
    for (std::vector<int32_t>& own : counts) {
      const int32_t count = own[tile];
      own[tile] = static_cast<int32_t>(next);
      next += count;
      check_pair_count(next);
    }
  }
  return next;
}

// starts[r]: pairs listed before rank r. Ranks that are not visible list none.
void scan_ranks(const int32_t* order, const int32_t* tiles_per_splat, int64_t M, int64_t* starts) {
  int64_t next = 0;
  for (int64_t rank = 0; rank < M; ++rank) {
    starts[rank] = next;
    next += tiles_per_splat[order[rank]];
  }
  starts[M] = next;
}

template <typename T>
void bin(const BinArgs<T>& a, const Tensor& like, BinOutputs& out) {
  int32_t *tiles_per_splat = output<int32_t>(out.tiles_per_splat),
          *offsets = output<int32_t>(out.offsets), *order = output<int32_t>(out.order);
  int64_t* starts = output<int64_t>(out.starts);
  const int64_t count = sort_by_depth(a, order), tiles = a.tiles();
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(thread_count(), count / 4096));
  std::vector<std::vector<Pair>> pairs(parts);
  std::vector<std::vector<int32_t>> counts(parts);
  std::memset(tiles_per_splat, 0, sizeof(int32_t) * a.M);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      counts[part].assign(tiles, 0);
      pairs[part].reserve(4 * count / parts);
      for (int64_t k = count * part / parts; k < count * (part + 1) / parts; ++k)
        list_tiles(a, order[k], pairs[part], counts[part].data(), tiles_per_splat);
    }
  });
  const int64_t total = place_tiles(counts, tiles, offsets);
  scan_ranks(order, tiles_per_splat, a.M, starts);
  out.flatten_ids = new_empty(like, {total}, ScalarType::Int);
  out.slots = new_empty(like, {total}, ScalarType::Int);
  int32_t *ids = output<int32_t>(out.flatten_ids), *slots = output<int32_t>(out.slots);
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      int32_t slot = static_cast<int32_t>(starts[count * part / parts]);
      for (const Pair& pair : pairs[part]) {
        const int32_t place = counts[part][pair.tile]++;
        ids[place] = pair.splat;
        slots[place] = slot++;
      }
    }
  });
}

BinResult splat_bin_cpu(Tensor means2d, Tensor radii, Tensor depths, std::optional<Tensor> conics,
                        std::optional<Tensor> opacities, std::optional<Tensor> image_ids,
                        int64_t n_images, int64_t tile_size, int64_t tile_width,
                        int64_t tile_height) {
  check_bin(means2d, radii, depths, conics, opacities, image_ids, n_images, tile_size, tile_width,
            tile_height, "splat_bin");
  dense_all(means2d, radii, depths);
  dense_all(conics, opacities, image_ids);
  const int64_t M = means2d.size(0);
  BinOutputs out = bin_outputs(means2d, n_images, tile_width, tile_height);
  dispatch_float(means2d, [&](auto zero) {
    using T = decltype(zero);
    const BinArgs<T> args = bin_args<T>(means2d, radii, depths, conics, opacities, image_ids,
                                        n_images, tile_size, tile_width, tile_height);
    if (args.image_ids != nullptr)
      for (int64_t i = 0; i < M; ++i)
        STD_TORCH_CHECK(args.image_ids[i] >= 0 && args.image_ids[i] < n_images,
                        "splat_bin: image_ids: expected 0 to ", n_images - 1, ", got ",
                        args.image_ids[i], " at ", i);
    bin(args, means2d, out);
  });
  return out.result();
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("splat_bin", TORCH_BOX(&splat_bin_cpu)); }

}  // namespace fl::splat
