// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of look-ups and kernel maps: rows are put into a hash table once; a thread then
// looks up one coarse row under the taps of one line, which differ in the last axis alone. Of a
// symmetric map the taps up to the centre are looked up, and each partner found is told of it.
#include "core/device_guard.h"
#include "core/registration.h"
#include "sparse/kernel_map_entry.h"
#include "sparse/launch.h"

namespace fl::sparse {
namespace {

using Word = unsigned long long;

FL_KERNEL insert_kernel(SlotTable table, Word* slots) {
  const int64_t i = this_thread();
  if (i >= table.count) return;
  const int32_t* row = table.coords + i * table.columns;
  const uint64_t hash = hash_row(row, table.columns);
  const Word own = make_slot(hash, i);
  for (uint64_t place = hash & table.mask;; place = (place + 1) & table.mask) {
    const Word held = atomicCAS(slots + place, Word{0}, own);
    if (held == 0) return;
    if (!table.holds(held, hash, row)) continue;
    atomicMax(slots + place, own);
    return;
  }
}

FL_KERNEL lookup_kernel(SlotTable table, const int32_t* queries, int64_t n, int32_t* rows) {
  const int64_t i = this_thread();
  if (i < n) rows[i] = table.find(queries + i * table.columns);
}

// C columns, a constant to the compiler.
template <int C>
struct Search {
  SlotTable table;
  Reach reach;
  const int32_t* coarse;
  int64_t count;
  int32_t* out;

  FL_D int64_t length() const { return reach.axes[C - 2].taps; }

  // The fine row of coarse row i under a tap, or -1.
  FL_D int32_t find(int64_t i, int64_t tap) const {
    int32_t fine[C];
    fine[0] = coarse[i * C];
    for (int a = C - 2; a >= 0; --a) {
      int64_t value;
      if (!reach.axes[a].fine(coarse[i * C + a + 1], tap % reach.axes[a].taps, &value)) return -1;
      fine[a + 1] = static_cast<int32_t>(value);
      tap /= reach.axes[a].taps;
    }
    SlotTable own = table;
    own.columns = C;
    return own.find(fine);
  }
};

template <int C>
FL_KERNEL table_kernel(Search<C> search, int64_t taps) {
  const int64_t i = this_thread();
  if (i >= search.count) return;
  for (int64_t first = blockIdx.y * search.length(); first < taps;
       first += gridDim.y * search.length())
    for (int64_t tap = first; tap < first + search.length(); ++tap)
      search.out[tap * search.count + i] = search.find(i, tap);
}

// The mirror image of a pair goes to the partner's own row: of repeated rows the first is
// everyone's partner, so the others, who are nobody's, look up those taps themselves.
template <int C>
FL_KERNEL symmetric_kernel(Search<C> search, int64_t taps) {
  const int64_t i = this_thread(), n = search.count, centre = taps / 2;
  if (i >= n) return;
  for (int64_t first = blockIdx.y * search.length(); first <= centre;
       first += gridDim.y * search.length())
    for (int64_t tap = first; tap < first + search.length() && tap <= centre; ++tap) {
      const int32_t found = search.find(i, tap);
      search.out[tap * n + i] = found;
      if (tap < centre && found >= 0)
        atomicMin(reinterpret_cast<unsigned*>(search.out + (taps - 1 - tap) * n + found),
                  static_cast<unsigned>(i));
      if (tap == centre && found != i)
        for (int64_t other = centre + 1; other < taps; ++other)
          search.out[other * n + i] = search.find(i, other);
    }
}

template <int C>
void search_table(const MapInput& in, int32_t* out, Stream stream) {
  const Search<C> search{slot_table(in.slots, in.coords, C), in.reach, input<int32_t>(in.coarse),
                         in.coarse.size(0), out};
  const int64_t taps = tap_count(in.reach), n = search.count;
  const int64_t searched = in.symmetric ? taps / 2 + 1 : taps;
  const int64_t length = in.reach.axes[C - 2].taps;
  const int64_t lines = std::min<int64_t>((searched + length - 1) / length, 65535);
  const dim3 grid(static_cast<unsigned>(blocks_for(n)), static_cast<unsigned>(lines));
  if (in.symmetric) {
    fill(out + searched * n, (taps - searched) * n, -1, stream);
    FL_LAUNCH((symmetric_kernel<C>), grid, kThreads, 0, stream, search, taps);
  } else {
    FL_LAUNCH((table_kernel<C>), grid, kThreads, 0, stream, search, taps);
  }
}

struct CudaMaps {
  static Tensor slots(const Tensor& coords, int columns) {
    const DeviceGuard guard(coords.get_device_index());
    const Stream stream = current_stream(coords.get_device_index());
    const Tensor slots = new_empty(coords, {slot_count(coords.size(0))}, ScalarType::Long);
    zero_async(output<Word>(slots), sizeof(Word) * slots.size(0), stream);
    FL_LAUNCH(insert_kernel, blocks_for(coords.size(0)), kThreads, 0, stream,
              slot_table(slots, coords, columns), output<Word>(slots));
    return slots;
  }

  static IndexTensors index(const Tensor& coords, int columns) {
    return {slots(coords, columns), new_empty(coords, {0}),
            new_empty(coords, {0, columns}, ScalarType::Long)};
  }

  static void lookup(const SlotTable& table, const int32_t* queries, int64_t n, int32_t* rows,
                     const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH(lookup_kernel, blocks_for(n), kThreads, 0, current_stream(like.get_device_index()),
              table, queries, n, rows);
  }

  static void table(const MapInput& in, int32_t* out) {
    check_slots(in.slots, in.coords, "sparse_kernel_table");
    const DeviceGuard guard(in.coords.get_device_index());
    const Stream stream = current_stream(in.coords.get_device_index());
    if (in.columns == 2) search_table<2>(in, out, stream);
    if (in.columns == 3) search_table<3>(in, out, stream);
    if (in.columns == 4) search_table<4>(in, out, stream);
    if (in.columns == 5) search_table<5>(in, out, stream);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_index", TORCH_BOX(&sparse_index<CudaMaps>));
  m.impl("sparse_slots", TORCH_BOX(&sparse_slots<CudaMaps>));
  m.impl("sparse_lookup", TORCH_BOX(&sparse_lookup<CudaMaps>));
  m.impl("sparse_kernel_table", TORCH_BOX(&sparse_kernel_table<CudaMaps>));
}

}  // namespace fl::sparse
