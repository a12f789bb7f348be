// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of look-ups and kernel maps: rows are put into a hash table once; a thread then
// looks up one coarse row under the taps of one line, which differ in the last axis alone. Of a
// symmetric map the taps up to the centre are looked up, and each partner found is told of it.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/coordinates_cuda.h"
#include "sparse/kernel_map_entry.h"
#include "sparse/kernel_map_search.h"
#include "sparse/launch.h"

namespace fl::sparse {
namespace {

FL_KERNEL insert_kernel(SlotTable table, Word* slots) {
  const int64_t i = this_thread();
  if (i < table.count) insert_row(table, i, slots);
}

struct SurveyFacts {
  Extents extents;
  int repeated;
};

FL_KERNEL survey_kernel(SlotTable table, SurveyFacts* facts) {
  widen(table.coords, table.count, table.columns, &facts->extents);
  int repeated = 0;
  for (int64_t i = this_thread(); i < table.count; i += static_cast<int64_t>(gridDim.x) * kThreads)
    repeated += table.find(table.coords + i * table.columns) != i;
  repeated = __reduce_add_sync(0xFFFFFFFFu, repeated);
  if (threadIdx.x % 32 == 0 && repeated > 0) atomicAdd(&facts->repeated, repeated);
}

FL_KERNEL lookup_kernel(SlotTable table, const int32_t* queries, int64_t n, int32_t* rows) {
  const int64_t i = this_thread();
  if (i < n) rows[i] = table.find(queries + i * table.columns);
}

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

  static Survey survey(const SlotTable& table, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const Scratch memory(sizeof(SurveyFacts));
    SurveyFacts found;
    zero_async(memory.data(), sizeof(found), stream);
    FL_LAUNCH(survey_kernel, blocks_for(table.count), kThreads, 0, stream, table,
              memory.data<SurveyFacts>());
    copy_to_host(&found, memory.data(), sizeof(found), stream);
    Survey survey;
    survey.repeated = found.repeated;
    if (table.count > 0) survey.bounds = decode(found.extents, table.columns);
    return survey;
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
  m.impl("sparse_survey", TORCH_BOX(&sparse_survey<CudaMaps>));
  m.impl("sparse_lookup", TORCH_BOX(&sparse_lookup<CudaMaps>));
  m.impl("sparse_kernel_table", TORCH_BOX(&sparse_kernel_table<CudaMaps>));
}

}  // namespace fl::sparse
