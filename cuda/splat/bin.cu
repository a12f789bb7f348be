// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of binning, in two sorts: the splats by depth once (32-bit keys, one per splat),
// then the listed pairs by tile alone (16-bit keys where tiles fit), stably, so that depth order
// survives. The host waits once, for the number of pairs; `between` queues work to fill that wait.
//
//   count   a thread a splat: its tiles and its depth key; a scan of the counts gives `starts`, and
//           the number of pairs sets out for the host
//   sort    splats by depth; a scan of their counts in that order gives each splat's place
//   list    a warp takes 32 splats in depth order: a lane lists a small splat, the whole warp, row
//           by row, each large one; short lists go through shared memory, to be stored in order
//   sort    pairs by tile, each with its splat and, where gradients will be asked for, its slot;
//           then where each tile's run begins
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "splat/bin_entry.h"
#include "splat/draw_parts.h"

namespace fl::splat {
namespace {

constexpr int kThreads = 256;
constexpr int kLargeSplatTiles = 32;
constexpr int kStagedPairs = 384;  // of a warp
constexpr unsigned kFullWarp = 0xffffffffu;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

template <typename T>
FL_D bool is_listed(const BinArgs<T>& a, int64_t i) {
  if (!is_visible(a, i)) return false;
  return a.image_ids == nullptr || (a.image_ids[i] >= 0 && a.image_ids[i] < a.n_images);
}

template <typename T>
FL_KERNEL count_kernel(BinArgs<T> a, int32_t* tiles_per_splat, uint32_t* keys, int32_t* ids,
                       int64_t* starts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i == 0) starts[0] = 0;
  if (i >= a.M) return;
  int32_t total = 0;
  // Splats that are not listed sort last.
  uint32_t key = 0xffffffffu;
  if (is_listed(a, i)) {
    const TileCover<T> cover = cover_tiles(a, i);
    for (int ty = cover.range.y_begin; ty < cover.range.y_end; ++ty) {
      const Span span = cover.row(ty, a.grid);
      total += span.end > span.begin ? span.end - span.begin : 0;
    }
    key = depth_key_of(a.depths[i]);
  }
  tiles_per_splat[i] = total;
  keys[i] = key;
  ids[i] = static_cast<int32_t>(i);
}

FL_KERNEL gather_counts_kernel(const int32_t* order, const int32_t* tiles_per_splat, int64_t M,
                               int32_t* counts) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (rank < M) counts[rank] = tiles_per_splat[order[rank]];
}

// What is sorted by tile: a splat, and with it, in 64 bits, its pair's slot.
template <typename Pair>
FL_HD Pair pack_pair(int32_t splat, int64_t slot) {
  if constexpr (sizeof(Pair) == 4) return static_cast<Pair>(splat);
  return static_cast<Pair>(static_cast<uint64_t>(slot) << 32 | static_cast<uint32_t>(splat));
}

template <typename Key, typename Pair>
struct PairLists {
  Key* tiles;
  Pair* pairs;

  FL_D void store(int64_t place, int64_t tile, int32_t splat, int64_t slot) const {
    tiles[place] = static_cast<Key>(tile);
    pairs[place] = pack_pair<Pair>(splat, slot);
  }
};

// The warp lists one splat together: a lane a row, rows placed by a scan over the lanes.
template <typename T, typename Lists>
FL_D void list_together(const BinArgs<T>& a, int32_t splat, int64_t place, int64_t slot,
                        const Lists& out) {
  const TileCover<T> cover = cover_tiles(a, splat);
  const int lane = threadIdx.x % 32;
  for (int first = cover.range.y_begin; first < cover.range.y_end; first += 32) {
    const int ty = first + lane;
    const Span span = ty < cover.range.y_end ? cover.row(ty, a.grid) : Span{0, 0};
    const int own = span.end > span.begin ? span.end - span.begin : 0;
    int before = own;
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kFullWarp, before, distance);
      if (lane >= distance) before += other;
    }
    const int total = __shfl_sync(kFullWarp, before, 31);
    for (int k = before - own; k < before; ++k)
      out.store(place + k, cover.tile(span.begin + k - (before - own), ty, a.grid), splat,
                slot + k);
    place += total;
    slot += total;
  }
}

// Calls visit(k, tile) for the k-th tile of a splat.
template <typename T, typename Visit>
FL_D void for_tiles(const BinArgs<T>& a, int32_t splat, const Visit& visit) {
  const TileCover<T> cover = cover_tiles(a, splat);
  int k = 0;
  for (int ty = cover.range.y_begin; ty < cover.range.y_end; ++ty) {
    const Span span = cover.row(ty, a.grid);
    for (int tx = span.begin; tx < span.end; ++tx) visit(k++, cover.tile(tx, ty, a.grid));
  }
}

template <typename T, typename Key, typename Pair>
FL_KERNEL list_kernel(BinArgs<T> a, const int32_t* order, const int32_t* places,
                      const int32_t* tiles_per_splat, const int64_t* starts,
                      PairLists<Key, Pair> out) {
  FL_SHARED_2D(Key, staged_tiles, kThreads / 32, kStagedPairs);
  FL_SHARED_2D(Pair, staged_pairs, kThreads / 32, kStagedPairs);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  int32_t splat = -1, place = 0;
  int64_t slot = 0;
  int count = 0;
  if (rank < a.M) {
    splat = order[rank];
    place = places[rank];
    count = tiles_per_splat[splat];
    if (count > 0 && sizeof(Pair) > 4) slot = starts[splat];
  }
  const bool large = count > kLargeSplatTiles;
  // Ranks beyond the last have no pairs, so the warp's places run from its first lane's on.
  int32_t end = place + count;
  for (int distance = 16; distance > 0; distance /= 2)
    end = maximum(end, __shfl_xor_sync(kFullWarp, end, distance));
  const int32_t begin = __shfl_sync(kFullWarp, place, 0);
  if (!__any_sync(kFullWarp, large) && end - begin <= kStagedPairs) {
    if (count > 0)
      for_tiles(a, splat, [&](int k, int64_t tile) {
        staged_tiles[warp][place - begin + k] = static_cast<Key>(tile);
        staged_pairs[warp][place - begin + k] = pack_pair<Pair>(splat, slot + k);
      });
    __syncwarp();
    for (int k = lane; k < end - begin; k += 32) {
      out.tiles[begin + k] = staged_tiles[warp][k];
      out.pairs[begin + k] = staged_pairs[warp][k];
    }
    return;
  }
  if (count > 0 && !large)
    for_tiles(a, splat, [&](int k, int64_t tile) { out.store(place + k, tile, splat, slot + k); });
  for (unsigned left = __ballot_sync(kFullWarp, large); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const int32_t their_splat = __shfl_sync(kFullWarp, splat, owner);
    const int32_t their_place = __shfl_sync(kFullWarp, place, owner);
    const int64_t their_slot = __shfl_sync(kFullWarp, static_cast<long long>(slot), owner);
    list_together(a, their_splat, their_place, their_slot, out);
  }
}

// offsets[t] = the first pair of tile t or of a later one. Thread P closes the last tiles.
// `pairs` is null where the sort has written flatten_ids itself.
template <typename Key>
FL_KERNEL finish_kernel(const Key* tiles, const uint64_t* pairs, int64_t P, int64_t n_tiles,
                        int32_t* flatten_ids, int32_t* slots, int32_t* offsets) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k > P) return;
  if (k < P && pairs != nullptr) {
    flatten_ids[k] = static_cast<int32_t>(pairs[k]);
    slots[k] = static_cast<int32_t>(pairs[k] >> 32);
  }
  const int64_t before = k > 0 ? static_cast<int64_t>(tiles[k - 1]) : -1;
  const int64_t last = n_tiles - 1;
  const int64_t here = k < P ? minimum(static_cast<int64_t>(tiles[k]), last) : last;
  for (int64_t tile = before + 1; tile <= here; ++tile) offsets[tile] = static_cast<int32_t>(k);
}

inline int bits_for(int64_t values) {
  int bits = 1;
  while ((int64_t{1} << bits) < values) ++bits;
  return bits;
}

// The splats in depth order and the place of each one's first pair.
struct DepthOrder {
  Scratch order, places;
};

template <typename Key, typename Pair, typename T>
void list_pairs(const BinArgs<T>& a, const DepthOrder& depth, const Tensor& like, int64_t P,
                Stream stream, BinOutputs& out) {
  constexpr bool kSlots = sizeof(Pair) > 4;
  out.flatten_ids = new_empty(like, {P}, ScalarType::Int);
  out.slots = new_empty(like, {kSlots ? P : 0}, ScalarType::Int);
  const Scratch tiles(sizeof(Key) * P), sorted_tiles(sizeof(Key) * P);
  const Scratch pairs(sizeof(Pair) * P), sorted(kSlots ? sizeof(Pair) * P : 0);
  const PairLists<Key, Pair> lists{tiles.template data<Key>(), pairs.template data<Pair>()};
  Pair* sorted_pairs = kSlots ? sorted.template data<Pair>() : output<Pair>(out.flatten_ids);
  FL_LAUNCH((list_kernel<T, Key, Pair>), blocks_for(a.M), kThreads, 0, stream, a,
            depth.order.template data<int32_t>(), depth.places.template data<int32_t>(),
            input<int32_t>(out.tiles_per_splat), input<int64_t>(out.starts), lists);
  sort_pairs(lists.tiles, sorted_tiles.template data<Key>(), lists.pairs, sorted_pairs, P, 0,
             bits_for(a.tiles()), stream);
  FL_LAUNCH((finish_kernel<Key>), blocks_for(P + 1), kThreads, 0, stream,
            sorted_tiles.template data<Key>(), kSlots ? sorted.template data<uint64_t>() : nullptr,
            P, a.tiles(), output<int32_t>(out.flatten_ids), output<int32_t>(out.slots),
            output<int32_t>(out.offsets));
}

template <typename Key, typename T>
void list_pairs(const BinArgs<T>& a, const DepthOrder& depth, const Tensor& like, int64_t P,
                Stream stream, BinOutputs& out) {
  if (out.with_slots)
    list_pairs<Key, uint64_t>(a, depth, like, P, stream, out);
  else
    list_pairs<Key, uint32_t>(a, depth, like, P, stream, out);
}

struct CudaBin {
  template <typename T, typename Between>
  static void run(const BinArgs<T>& a, const Tensor& like, const Between& between,
                  BinOutputs& out) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const Scratch keys(sizeof(uint32_t) * a.M), sorted_keys(sizeof(uint32_t) * a.M);
    const Scratch ids(sizeof(int32_t) * a.M);
    const DepthOrder depth{Scratch(sizeof(int32_t) * a.M), Scratch(sizeof(int32_t) * a.M)};
    int32_t *counts = ids.data<int32_t>(), *order = depth.order.data<int32_t>();
    const int32_t* tiles_per_splat = output<int32_t>(out.tiles_per_splat);
    int64_t* starts = output<int64_t>(out.starts);
    FL_LAUNCH((count_kernel<T>), blocks_for(a.M + 1), kThreads, 0, stream, a,
              output<int32_t>(out.tiles_per_splat), keys.data<uint32_t>(), ids.data<int32_t>(),
              starts);
    inclusive_scan(tiles_per_splat, starts + 1, a.M, stream);
    PendingRead pairs(starts + a.M, sizeof(int64_t), stream);
    sort_pairs(keys.data<uint32_t>(), sorted_keys.data<uint32_t>(), ids.data<int32_t>(), order, a.M,
               0, 32, stream);
    // In place of the unsorted ids, which nobody needs any more.
    FL_LAUNCH(gather_counts_kernel, blocks_for(a.M), kThreads, 0, stream, order, tiles_per_splat,
              a.M, counts);
    exclusive_scan(counts, depth.places.data<int32_t>(), a.M, stream);
    between();
    int64_t P = 0;
    pairs.wait(&P);
    check_pair_count(P);
    if (a.tiles() <= 65536)
      list_pairs<uint16_t>(a, depth, like, P, stream, out);
    else
      list_pairs<uint32_t>(a, depth, like, P, stream, out);
  }
};

}  // namespace

BinResult bin_here(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                   const Tensor& conics, const Tensor& opacities, const BinGrid& grid,
                   bool with_slots, const std::function<void()>& between) {
  return bin_between<CudaBin>(means2d, radii, depths, conics, opacities, std::nullopt, grid,
                              with_slots, between, "splat_draw");
}

FL_LIBRARY_IMPL_CUDA(m) { m.impl("splat_bin", TORCH_BOX(&splat_bin<CudaBin>)); }

}  // namespace fl::splat
