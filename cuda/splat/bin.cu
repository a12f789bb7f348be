// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of binning, in two sorts: the splats by depth once (32-bit keys, one per splat),
// then the listed pairs by tile alone (16-bit keys where tiles fit), stably, so that depth order
// survives. The host waits once, for the number of pairs; `between` queues work to fill that wait.
//
//   count   a thread a splat: its tiles and its depth key
//   sort    splats by depth; scan of their counts in that order gives `starts`
//   list    a warp takes 32 splats in depth order: a lane lists a small splat, the whole warp, row
//           by row, each large one; short lists go through shared memory, to be stored in order
//   sort    pairs by tile; then flatten_ids and where each tile's run begins
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
FL_KERNEL count_kernel(BinArgs<T> a, int32_t* tiles_per_splat, uint32_t* keys, int32_t* ids) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
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

// counts[M] is zero, so that the scan ends with the number of pairs.
FL_KERNEL gather_counts_kernel(const int32_t* order, const int32_t* tiles_per_splat, int64_t M,
                               int32_t* counts) {
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (rank <= M) counts[rank] = rank < M ? tiles_per_splat[order[rank]] : 0;
}

template <typename Key>
struct PairLists {
  Key* tiles;
  int32_t *slots, *splats;
};

template <typename Key>
FL_D void store_pair(const PairLists<Key>& out, int64_t slot, int64_t tile, int32_t splat) {
  out.tiles[slot] = static_cast<Key>(tile);
  out.slots[slot] = static_cast<int32_t>(slot);
  out.splats[slot] = splat;
}

// The warp lists one splat together: a lane a row, rows placed by a scan over the lanes.
template <typename T, typename Key>
FL_D void list_together(const BinArgs<T>& a, int32_t splat, int64_t slot,
                        const PairLists<Key>& out) {
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
    for (int k = 0; k < own; ++k)
      store_pair(out, slot + before - own + k, cover.tile(span.begin + k, ty, a.grid), splat);
    slot += total;
  }
}

// Calls pair(k, tile) for the k-th tile of a splat.
template <typename T, typename Pair>
FL_D void for_tiles(const BinArgs<T>& a, int32_t splat, const Pair& pair) {
  const TileCover<T> cover = cover_tiles(a, splat);
  int k = 0;
  for (int ty = cover.range.y_begin; ty < cover.range.y_end; ++ty) {
    const Span span = cover.row(ty, a.grid);
    for (int tx = span.begin; tx < span.end; ++tx) pair(k++, cover.tile(tx, ty, a.grid));
  }
}

template <typename T, typename Key>
FL_KERNEL list_kernel(BinArgs<T> a, const int32_t* order, const int64_t* starts,
                      PairLists<Key> out) {
  FL_SHARED_2D(Key, staged_tiles, kThreads / 32, kStagedPairs);
  FL_SHARED_2D(int32_t, staged_splats, kThreads / 32, kStagedPairs);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t rank = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  int32_t splat = -1;
  int64_t slot = 0;
  int count = 0;
  if (rank < a.M) {
    splat = order[rank];
    slot = starts[rank];
    count = static_cast<int>(starts[rank + 1] - slot);
  }
  const bool large = count > kLargeSplatTiles;
  // Ranks beyond the last have no pairs, so the warp's slots run from its first lane's on.
  int64_t end = slot + count;
  for (int distance = 16; distance > 0; distance /= 2) {
    const int64_t other = __shfl_xor_sync(kFullWarp, static_cast<long long>(end), distance);
    end = maximum(end, other);
  }
  const int64_t begin = __shfl_sync(kFullWarp, static_cast<long long>(slot), 0);
  if (!__any_sync(kFullWarp, large) && end - begin <= kStagedPairs) {
    if (count > 0) {
      const int place = static_cast<int>(slot - begin);
      for_tiles(a, splat, [&](int k, int64_t tile) {
        staged_tiles[warp][place + k] = static_cast<Key>(tile);
        staged_splats[warp][place + k] = splat;
      });
    }
    __syncwarp();
    for (int64_t k = begin + lane; k < end; k += 32)
      store_pair(out, k, staged_tiles[warp][k - begin], staged_splats[warp][k - begin]);
    return;
  }
  if (count > 0 && !large)
    for_tiles(a, splat, [&](int k, int64_t tile) { store_pair(out, slot + k, tile, splat); });
  for (unsigned left = __ballot_sync(kFullWarp, large); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const int32_t their_splat = __shfl_sync(kFullWarp, splat, owner);
    const int64_t their_slot = __shfl_sync(kFullWarp, static_cast<long long>(slot), owner);
    list_together(a, their_splat, their_slot, out);
  }
}

// offsets[t] = the first pair of tile t or of a later one. Thread P closes the last tiles.
template <typename Key>
FL_KERNEL finish_kernel(const Key* tiles, const int32_t* slots, const int32_t* splats, int64_t P,
                        int64_t n_tiles, int32_t* flatten_ids, int32_t* offsets) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k > P) return;
  if (k < P) flatten_ids[k] = splats[slots[k]];
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

template <typename Key, typename T>
void list_pairs(const BinArgs<T>& a, const Tensor& like, int64_t P, Stream stream,
                BinOutputs& out) {
  out.flatten_ids = new_empty(like, {P}, ScalarType::Int);
  out.slots = new_empty(like, {P}, ScalarType::Int);
  const Scratch tiles(sizeof(Key) * P), sorted_tiles(sizeof(Key) * P);
  const Scratch slots(sizeof(int32_t) * P), splats(sizeof(int32_t) * P);
  const PairLists<Key> lists{tiles.template data<Key>(), slots.template data<int32_t>(),
                             splats.template data<int32_t>()};
  FL_LAUNCH((list_kernel<T, Key>), blocks_for(a.M), kThreads, 0, stream, a,
            input<int32_t>(out.order), input<int64_t>(out.starts), lists);
  sort_pairs(lists.tiles, sorted_tiles.template data<Key>(), lists.slots,
             output<int32_t>(out.slots), P, 0, bits_for(a.tiles()), stream);
  FL_LAUNCH((finish_kernel<Key>), blocks_for(P + 1), kThreads, 0, stream,
            sorted_tiles.template data<Key>(), input<int32_t>(out.slots), lists.splats, P,
            a.tiles(), output<int32_t>(out.flatten_ids), output<int32_t>(out.offsets));
}

struct CudaBin {
  template <typename T, typename Between>
  static void run(const BinArgs<T>& a, const Tensor& like, const Between& between,
                  BinOutputs& out) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const Scratch keys(sizeof(uint32_t) * a.M), sorted_keys(sizeof(uint32_t) * a.M);
    const Scratch ids(sizeof(int32_t) * a.M), counts(sizeof(int32_t) * (a.M + 1));
    FL_LAUNCH((count_kernel<T>), blocks_for(a.M), kThreads, 0, stream, a,
              output<int32_t>(out.tiles_per_splat), keys.data<uint32_t>(), ids.data<int32_t>());
    sort_pairs(keys.data<uint32_t>(), sorted_keys.data<uint32_t>(), ids.data<int32_t>(),
               output<int32_t>(out.order), a.M, 0, 32, stream);
    FL_LAUNCH(gather_counts_kernel, blocks_for(a.M + 1), kThreads, 0, stream,
              input<int32_t>(out.order), input<int32_t>(out.tiles_per_splat), a.M,
              counts.data<int32_t>());
    exclusive_scan(counts.data<int32_t>(), output<int64_t>(out.starts), a.M + 1, stream);
    PendingRead pairs(input<int64_t>(out.starts) + a.M, sizeof(int64_t), stream);
    between();
    int64_t P = 0;
    pairs.wait(&P);
    check_pair_count(P);
    if (a.tiles() <= 65536)
      list_pairs<uint16_t>(a, like, P, stream, out);
    else
      list_pairs<uint32_t>(a, like, P, stream, out);
  }
};

}  // namespace

BinResult bin_here(const Tensor& means2d, const Tensor& radii, const Tensor& depths,
                   const Tensor& conics, const Tensor& opacities, const BinGrid& grid,
                   const std::function<void()>& between) {
  return bin_between<CudaBin>(means2d, radii, depths, conics, opacities, std::nullopt, grid,
                              between, "splat_draw");
}

FL_LIBRARY_IMPL_CUDA(m) { m.impl("splat_bin", TORCH_BOX(&splat_bin<CudaBin>)); }

}  // namespace fl::splat
