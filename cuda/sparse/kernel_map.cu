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

// C columns, a constant to the compiler. A line is all taps that differ in the last axis alone.
template <int C>
struct Search {
  SlotTable table;
  Reach reach;
  const int32_t* coarse;
  int64_t count, taps;
  int32_t* out;

  FL_D int64_t length() const { return reach.axes[C - 2].taps; }

  FL_D int32_t* place(int64_t tap, int64_t row) const { return out + tap * count + row; }

  // Calls f(tap, fine row or -1) for the taps of a line, below an end, of coarse row i.
  template <typename F>
  FL_D void line(int64_t i, uint32_t line, int64_t first, int64_t end, const F& f) const {
    int32_t fine[C];
    fine[0] = coarse[i * C];
    bool exists = true;
    for (int a = C - 3; a >= 0; --a) {
      const uint32_t taps_here = static_cast<uint32_t>(reach.axes[a].taps);
      int64_t value;
      exists &= reach.axes[a].fine(coarse[i * C + a + 1], line % taps_here, &value);
      fine[a + 1] = static_cast<int32_t>(value);
      line /= taps_here;
    }
    SlotTable own = table;
    own.columns = C;
    for (int64_t tap = first; tap < first + length() && tap < end; ++tap) {
      int64_t value;
      const bool inside = reach.axes[C - 2].fine(coarse[i * C + C - 1], tap - first, &value);
      fine[C - 1] = static_cast<int32_t>(value);
      f(tap, exists && inside ? own.find(fine) : -1);
    }
  }

  // The lines of this block's share that hold taps in [begin, end).
  template <typename F>
  FL_D void lines(int64_t i, int64_t begin, int64_t end, uint32_t from, uint32_t step,
                  const F& f) const {
    for (int64_t number = begin / length() + from; number * length() < end; number += step)
      line(i, static_cast<uint32_t>(number), number * length(), end, f);
  }
};

template <int C>
FL_KERNEL table_kernel(Search<C> search) {
  const int64_t i = this_thread();
  if (i >= search.count) return;
  search.lines(i, 0, search.taps, blockIdx.y, gridDim.y,
               [&](int64_t tap, int32_t found) { *search.place(tap, i) = found; });
}

// The mirror image of a pair goes to the partner's own row: of repeated rows the first is
// everyone's partner, so the others, who are nobody's, look up those taps themselves.
template <int C>
FL_KERNEL symmetric_kernel(Search<C> search) {
  const int64_t i = this_thread(), centre = search.taps / 2;
  if (i >= search.count) return;
  bool repeated = false;
  search.lines(i, 0, centre + 1, blockIdx.y, gridDim.y, [&](int64_t tap, int32_t found) {
    *search.place(tap, i) = found;
    if (tap == centre)
      repeated = found != i;
    else if (found >= 0)
      atomicMin(reinterpret_cast<unsigned*>(search.place(search.taps - 1 - tap, found)),
                static_cast<unsigned>(i));
  });
  if (repeated)
    search.lines(i, centre, search.taps, 0, 1, [&](int64_t tap, int32_t found) {
      if (tap > centre) *search.place(tap, i) = found;
    });
}

template <int C>
void search_table(const MapInput& in, int32_t* out, Stream stream) {
  const Search<C> search{slot_table(in.slots, in.coords, C),
                         in.reach,
                         input<int32_t>(in.coarse),
                         in.coarse.size(0),
                         tap_count(in.reach),
                         out};
  const int64_t searched = in.symmetric ? search.taps / 2 + 1 : search.taps;
  const int64_t length = in.reach.axes[C - 2].taps;
  const int64_t lines = std::min<int64_t>((searched + length - 1) / length, 65535);
  const dim3 grid(static_cast<unsigned>(blocks_for(search.count)), static_cast<unsigned>(lines));
  if (in.symmetric) {
    const int64_t mirrored = search.taps - searched;
    fill(out + searched * search.count, mirrored * search.count, -1, stream);
    FL_LAUNCH((symmetric_kernel<C>), grid, kThreads, 0, stream, search);
  } else {
    FL_LAUNCH((table_kernel<C>), grid, kThreads, 0, stream, search);
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
