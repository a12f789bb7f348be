// SPDX-License-Identifier: Apache-2.0
//
// Look-ups and kernel maps as torch sees them: checks and outputs, the work left to a Backend.
#pragma once

#include "sparse/coordinates_entry.h"
#include "sparse/kernel_map.h"

namespace fl::sparse {

// slots, order, bounds: those that the backend looks rows up by, the others empty. `order` is empty
// too where rows are sorted and distinct as they stand.
using IndexTensors = std::tuple<Tensor, Tensor, Tensor>;
using PairTensors = std::tuple<Tensor, Tensor, Tensor>;

inline SlotTable slot_table(const Tensor& slots, const Tensor& coords, int columns) {
  return {input<uint64_t>(slots), static_cast<uint64_t>(slots.size(0)) - 1, input<int32_t>(coords),
          coords.size(0), columns};
}

inline void check_slots(const Tensor& slots, const Tensor& coords, const char* op) {
  check_dtype(slots, ScalarType::Long, op, "slots");
  check_same_device(slots, coords, op, "slots");
  const int64_t count = slots.dim() == 1 ? slots.size(0) : 0;
  STD_TORCH_CHECK(count == slot_count(coords.size(0)), op, ": slots: expected shape [",
                  slot_count(coords.size(0)), "], got ", shape_text(slots));
}

template <typename Backend>
IndexTensors sparse_index(Tensor coords) {
  const int columns = check_coords(coords, "sparse_index", "coords");
  make_dense(coords);
  return Backend::index(coords, columns);
}

template <typename Backend>
Tensor sparse_slots(Tensor coords) {
  const int columns = check_coords(coords, "sparse_slots", "coords");
  make_dense(coords);
  return Backend::slots(coords, columns);
}

// What there is to know of rows: their bounds, and how many of them stood before.
struct Survey {
  Bounds bounds;
  int64_t repeated = 0;
};

// In the host's memory: lowest and highest of each column, then the number of repeated rows.
template <typename Backend>
Tensor sparse_survey(Tensor coords, Tensor slots) {
  const char* op = "sparse_survey";
  const int columns = check_coords(coords, op, "coords");
  check_slots(slots, coords, op);
  dense_all(coords, slots);
  const Tensor facts =
      allocate({2 * columns + 1}, ScalarType::Long, aoti_torch_device_type_cpu(), 0);
  const Survey survey = Backend::survey(slot_table(slots, coords, columns), coords);
  std::copy_n(survey.bounds.low, columns, output<int64_t>(facts));
  std::copy_n(survey.bounds.high, columns, output<int64_t>(facts) + columns);
  output<int64_t>(facts)[2 * columns] = survey.repeated;
  return facts;
}

template <typename Backend>
Tensor sparse_lookup(Tensor coords, Tensor slots, Tensor queries) {
  const char* op = "sparse_lookup";
  const int columns = check_coords(coords, op, "coords");
  check_slots(slots, coords, op);
  check_dtype(queries, ScalarType::Int, op, "queries");
  check_shape(queries, {-1, columns}, op, "queries");
  check_same_device(queries, coords, op, "queries");
  dense_all(coords, slots, queries);
  const Tensor rows = new_empty(coords, {queries.size(0)});
  Backend::lookup(slot_table(slots, coords, columns), input<int32_t>(queries), queries.size(0),
                  output<int32_t>(rows), coords);
  return rows;
}

// Whether taps t and K - 1 - t are each other's mirror image.
inline void check_centred(const Reach& reach, const char* op) {
  for (int a = 0; a + 1 < reach.columns; ++a) {
    const Axis& axis = reach.axes[a];
    STD_TORCH_CHECK(axis.taps % 2 == 1 && axis.stride == 1 && 2 * axis.origin == -axis.extent(), op,
                    ": symmetric: expected odd kernels, stride 1 and centred taps, got ", axis.taps,
                    " taps of stride ", axis.stride, " from ", axis.origin, " on axis ", a);
  }
}

// What a map is made of, checked: an index of the fine set, the coarse set, and the taps.
struct MapInput {
  Tensor coords, slots, order, bounds, coarse;
  Reach reach;
  int columns;
  bool symmetric;

  MapInput(Tensor coords_in, Tensor slots_in, Tensor order_in, Tensor bounds_in, Tensor coarse_in,
           const Numbers& taps, bool symmetric_in, const char* op)
      : coords(std::move(coords_in)),
        slots(std::move(slots_in)),
        order(std::move(order_in)),
        bounds(std::move(bounds_in)),
        coarse(std::move(coarse_in)),
        columns(check_coords(coords, op, "coords")),
        symmetric(symmetric_in) {
    check_dtype(coarse, ScalarType::Int, op, "coarse_coords");
    check_shape(coarse, {-1, columns}, op, "coarse_coords");
    check_coords(coarse, op, "coarse_coords");
    check_same_device(coarse, coords, op, "coarse_coords");
    reach = check_taps(taps, columns, op);
    if (symmetric) {
      check_centred(reach, op);
      STD_TORCH_CHECK(coords.size(0) == coarse.size(0), op,
                      ": symmetric: expected the same set twice, got ", coords.size(0), " and ",
                      coarse.size(0), " rows");
    }
    dense_all(coords, slots, order, bounds, coarse);
  }
};

template <typename Backend>
Tensor sparse_kernel_table(Tensor coords, Tensor slots, Tensor order, Tensor bounds, Tensor coarse,
                           Numbers taps, bool symmetric) {
  const MapInput in(coords, slots, order, bounds, coarse, taps, symmetric, "sparse_kernel_table");
  const Tensor table = new_empty(in.coords, {tap_count(in.reach), in.coarse.size(0)});
  Backend::table(in, output<int32_t>(table));
  return table;
}

template <typename Backend>
PairTensors sparse_kernel_pairs(Tensor coords, Tensor slots, Tensor order, Tensor bounds,
                                Tensor coarse, Numbers taps, bool symmetric) {
  return Backend::pairs(
      MapInput(coords, slots, order, bounds, coarse, taps, symmetric, "sparse_kernel_pairs"));
}

}  // namespace fl::sparse
