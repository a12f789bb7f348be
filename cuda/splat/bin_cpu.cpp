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
#include "splat/bin_entry.h"
#include "splat/draw_parts.h"

namespace fl::splat {
namespace {

struct Pair {
  int32_t tile, splat;
};

// The visible splats, nearest first, equal depths in their own order.
template <typename T>
void sort_by_depth(const BinArgs<T>& a, std::vector<int32_t>& order) {
  std::vector<int32_t> visible;
  for (int64_t i = 0; i < a.M; ++i)
    if (is_visible(a, i)) visible.push_back(static_cast<int32_t>(i));
  const int64_t count = static_cast<int64_t>(visible.size());
  order.resize(count);
  std::vector<uint32_t> keys(count), sorted_keys(count);
  parallel_for(0, count, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) keys[k] = depth_key_of(a.depths[visible[k]]);
  });
  cpu::sort_pairs(keys.data(), sorted_keys.data(), visible.data(), order.data(), count, 0, 32);
}

template <typename T>
void list_tiles(const BinArgs<T>& a, int32_t i, std::vector<Pair>& pairs, int32_t* counts,
                int32_t* tiles_per_splat) {
  const TileCover<T> cover = cover_tiles(a, i);
  int32_t total = 0;
  for (int ty = cover.range.y_begin; ty < cover.range.y_end; ++ty) {
    const Span span = cover.row(ty, a.grid);
    for (int tx = span.begin; tx < span.end; ++tx) {
      const int32_t tile = static_cast<int32_t>(cover.tile(tx, ty, a.grid));
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

void scan_splats(const int32_t* tiles_per_splat, int64_t M, int64_t* starts) {
  starts[0] = 0;
  for (int64_t i = 0; i < M; ++i) starts[i + 1] = starts[i] + tiles_per_splat[i];
}

template <typename T>
void bin(const BinArgs<T>& a, const Tensor& like, BinOutputs& out) {
  int32_t *tiles_per_splat = output<int32_t>(out.tiles_per_splat),
          *offsets = output<int32_t>(out.offsets);
  int64_t* starts = output<int64_t>(out.starts);
  std::vector<int32_t> order;
  sort_by_depth(a, order);
  const int64_t count = static_cast<int64_t>(order.size()), tiles = a.tiles();
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
  scan_splats(tiles_per_splat, a.M, starts);
  out.flatten_ids = new_empty(like, {total}, ScalarType::Int);
  out.slots = new_empty(like, {out.with_slots ? total : 0}, ScalarType::Int);
  int32_t* ids = output<int32_t>(out.flatten_ids);
  int32_t* slots = out.with_slots ? output<int32_t>(out.slots) : nullptr;
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      int32_t splat = -1, slot = 0;
      for (const Pair& pair : pairs[part]) {
        if (pair.splat != splat) slot = static_cast<int32_t>(starts[splat = pair.splat]);
        const int32_t place = counts[part][pair.tile]++;
        ids[place] = splat;
        if (slots != nullptr) slots[place] = slot++;
      }
    }
  });
}

template <typename T>
void check_image_ids(const BinArgs<T>& a) {
  if (a.image_ids == nullptr) return;
  for (int64_t i = 0; i < a.M; ++i)
    STD_TORCH_CHECK(a.image_ids[i] >= 0 && a.image_ids[i] < a.n_images,
                    "splat_bin: image_ids: expected 0 to ", a.n_images - 1, ", got ",
                    a.image_ids[i], " at ", i);
}

struct CpuBin {
  template <typename T, typename Between>
  static void run(const BinArgs<T>& args, const Tensor& like, const Between& between,
                  BinOutputs& out) {
    check_image_ids(args);
    between();
    bin(args, like, out);
  }
};

}  // namespace

BinResult bin_here(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                   const Tensor& conics, const Tensor& opacities, const BinGrid& grid,
                   bool with_slots, const std::function<void()>& between) {
  return bin_between<CpuBin>(means2d, radii, depths, conics, opacities, std::nullopt, grid,
                             with_slots, between, "splat_draw");
}

FL_LIBRARY_IMPL_CPU(m) { m.impl("splat_bin", TORCH_BOX(&splat_bin<CpuBin>)); }

}  // namespace fl::splat
