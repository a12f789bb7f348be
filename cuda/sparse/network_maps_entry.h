// SPDX-License-Identifier: Apache-2.0
//
// All maps of a network in one call: which sets of coordinates there are, which maps lead from one
// to another, and in which forms each is wanted. Numbers tell, a fixed count an item:
//
//   map        fine set, coarse set, symmetric, with reverse, then the taps as `make_reach` has
//   them schedule   map, of its reverse, splits, with masks of 64 rows, with masks of 128 rows
//   pairs      map, of its reverse
//
// Sets have no repeated rows: of a map between others nothing is said but that it stays in bounds.
// What comes back are arrays end to end, each padded to 16 bytes, as far as they were asked for:
//
//   slots         of each set that is some map's fine one
//   tables        of each map its table, and that of its reverse
//   orders        of each schedule order, permuted table, masks of 64, masks of 128
//   pair_rows     of each pairs input rows, output rows
//   pair_starts   of each pairs
//   pair_counts   of each pairs, in the host's memory, without padding
#pragma once

#include <vector>

#include "sparse/convolution_plan.h"
#include "sparse/kernel_map_entry.h"

namespace fl::sparse {

struct NetworkMap {
  int64_t fine, coarse;
  bool symmetric, with_reverse;
  Reach reach;
};

// A table of a map, its own or that of its reverse.
struct TableName {
  int64_t map;
  bool reversed;
};

struct NetworkSchedule {
  TableName table;
  int64_t splits;
  bool masks_64, masks_128;
};

struct Network {
  std::vector<Tensor> sets;
  int columns = 0;
  std::vector<NetworkMap> maps;
  std::vector<NetworkSchedule> schedules;
  std::vector<TableName> pairs;

  Network(std::vector<Tensor> sets_in, const Numbers& map_numbers, const Numbers& schedule_numbers,
          const Numbers& pair_numbers)
      : sets(std::move(sets_in)) {
    read_sets();
    read_maps(map_numbers);
    read_schedules(schedule_numbers);
    check_count(pair_numbers, kPairNumbers, "pairs");
    for (std::size_t i = 0; i < pair_numbers.size(); i += kPairNumbers)
      pairs.push_back(table_name(&pair_numbers[i], "pairs"));
  }

  int64_t rows(int64_t set) const { return sets[set].size(0); }
  int64_t taps(const TableName& table) const { return tap_count(maps[table.map].reach); }
  int64_t table_rows(const TableName& table) const {
    const NetworkMap& map = maps[table.map];
    return rows(table.reversed ? map.fine : map.coarse);
  }

  PlanShape shape(const NetworkSchedule& schedule, int64_t tile_rows) const {
    const int64_t n_taps = taps(schedule.table), n_out = table_rows(schedule.table);
    return {n_taps,
            n_out,
            schedule.splits,
            tile_rows,
            taps_per_split(n_taps, schedule.splits),
            (n_out + tile_rows - 1) / tile_rows};
  }

 private:
  static constexpr const char* kOp = "sparse_network_maps";
  static constexpr std::size_t kScheduleNumbers = 5, kPairNumbers = 2;

  static void check_count(const Numbers& numbers, std::size_t each, const char* argument) {
    STD_TORCH_CHECK(numbers.size() % each == 0, kOp, ": ", argument, ": expected ", each,
                    " numbers each, got ", numbers.size());
  }

  void read_sets() {
    STD_TORCH_CHECK(!sets.empty(), kOp, ": sets: expected at least one");
    columns = check_coords(sets[0], kOp, "sets");
    for (Tensor& set : sets) {
      check_coords(set, kOp, "sets");
      check_shape(set, {-1, columns}, kOp, "sets");
      check_same_device(set, sets[0], kOp, "sets");
      make_dense(set);
    }
  }

  void read_maps(const Numbers& numbers) {
    const std::size_t each = 4 + 4 * (columns - 1);
    check_count(numbers, each, "maps");
    const int64_t count = static_cast<int64_t>(sets.size());
    for (std::size_t i = 0; i < numbers.size(); i += each) {
      const int64_t* n = &numbers[i];
      STD_TORCH_CHECK(n[0] >= 0 && n[0] < count && n[1] >= 0 && n[1] < count, kOp,
                      ": maps: expected sets below ", count, ", got ", n[0], " and ", n[1]);
      maps.push_back({n[0], n[1], n[2] != 0, n[3] != 0, make_reach(n + 4, columns, kOp)});
      if (maps.back().symmetric) check_symmetric(maps.back());
    }
  }

  void check_symmetric(const NetworkMap& map) const {
    check_centred(map.reach, kOp);
    STD_TORCH_CHECK(map.fine == map.coarse && !map.with_reverse, kOp,
                    ": maps: expected a symmetric one on one set and without reverse, got sets ",
                    map.fine, " and ", map.coarse);
  }

  TableName table_name(const int64_t* n, const char* argument) const {
    const int64_t count = static_cast<int64_t>(maps.size());
    STD_TORCH_CHECK(n[0] >= 0 && n[0] < count && (n[1] == 0 || maps[n[0]].with_reverse), kOp, ": ",
                    argument, ": expected a map below ", count,
                    ", with reverse where that is meant, got ", n[0], " and ", n[1]);
    return {n[0], n[1] != 0};
  }

  void read_schedules(const Numbers& numbers) {
    check_count(numbers, kScheduleNumbers, "schedules");
    for (std::size_t i = 0; i < numbers.size(); i += kScheduleNumbers) {
      const int64_t* n = &numbers[i];
      const TableName table = table_name(n, "schedules");
      check_splits(taps(table), table_rows(table), n[2], kOp);
      schedules.push_back({table, n[2], n[3] != 0, n[4] != 0});
    }
  }
};

using NetworkTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

inline Tensor host_numbers(const Numbers& numbers) {
  const Tensor tensor = allocate({static_cast<int64_t>(numbers.size())}, ScalarType::Long,
                                 aoti_torch_device_type_cpu(), 0);
  std::copy(numbers.begin(), numbers.end(), output<int64_t>(tensor));
  return tensor;
}

template <typename Backend>
NetworkTensors sparse_network_maps(std::vector<Tensor> sets, Numbers maps, Numbers schedules,
                                   Numbers pairs) {
  return Backend::run(Network(std::move(sets), maps, schedules, pairs));
}

}  // namespace fl::sparse
