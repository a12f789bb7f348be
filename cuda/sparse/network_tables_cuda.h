// SPDX-License-Identifier: Apache-2.0
//
// The tables of all maps of a network: sets are put into hash tables in one launch, and partners
// looked up in one more for each number of columns, of symmetric maps half of them. Whoever finds a
// partner writes it into the table, and itself into the table of the reverse, which of a symmetric
// map is the same one from the last tap to the first.
#pragma once

#include "sparse/jobs_cuda.h"
#include "sparse/kernel_map_search.h"
#include "sparse/launch.h"
#include "sparse/network_maps_entry.h"
#include "sparse/slices.h"

namespace fl::sparse {
namespace {

struct InsertJob {
  SlotTable table;
  Word* slots;
};

FL_KERNEL insert_all_kernel(FL_GRID_CONSTANT Jobs<InsertJob> jobs) {
  int64_t block;
  const InsertJob& job = jobs.mine(&block);
  const int64_t i = block * kThreads + threadIdx.x;
  if (i < job.table.count) insert_row(job.table, i, job.slots);
}

// Four values a thread.
FL_KERNEL clear_kernel(int4* out, int64_t count, int value) {
  const int64_t i = this_thread();
  if (i < count) out[i] = make_int4(value, value, value, value);
}

void clear(void* out, std::size_t bytes, int value, Stream stream) {
  const int64_t count = static_cast<int64_t>(bytes / sizeof(int4));
  FL_LAUNCH(clear_kernel, blocks_for(count), kThreads, 0, stream, static_cast<int4*>(out), count,
            value);
}

template <int C>
struct TableJob {
  Search<C> search;
  int32_t* reverse;  // null: not wanted
  int64_t n_fine, lines;
  bool symmetric;
};

// Neighbouring blocks look for the same rows along other lines.
template <int C>
FL_KERNEL tables_kernel(FL_GRID_CONSTANT Jobs<TableJob<C>> jobs) {
  int64_t block;
  const TableJob<C>& job = jobs.mine(&block);
  const Search<C>& search = job.search;
  const int64_t i = block / job.lines * kThreads + threadIdx.x, line = block % job.lines;
  if (i >= search.count) return;
  const int64_t first = line * search.length(), last_tap = search.taps - 1;
  const int64_t end = job.symmetric ? search.taps / 2 : search.taps;
  if (job.symmetric && line == 0) *search.place(end, i) = static_cast<int32_t>(i);
  search.line(i, static_cast<uint32_t>(line), first, end, [&](int64_t tap, int32_t found) {
    *search.place(tap, i) = found;
    if (found < 0) return;
    if (job.symmetric) *search.place(last_tap - tap, found) = static_cast<int32_t>(i);
    if (job.reverse != nullptr) job.reverse[tap * job.n_fine + found] = static_cast<int32_t>(i);
  });
}

// Hash tables of the sets that maps look rows up in, and the tables of all maps.
class NetworkTables {
 public:
  NetworkTables(const Network& network, Stream stream) : network_(network), stream_(stream) {
    for (std::size_t set = 0; set < network.sets.size(); ++set) {
      slots_at_.push_back(slots_.total());
      if (is_fine(static_cast<int64_t>(set))) slots_.add(slot_count(network.rows(set)));
    }
    for (std::size_t map = 0; map < network.maps.size(); ++map) {
      at_.push_back(tables_.add(size({static_cast<int64_t>(map), false})));
      const bool reverse = network.maps[map].with_reverse;
      reverse_at_.push_back(tables_.add(reverse ? size({static_cast<int64_t>(map), true}) : 0));
    }
    slots_.allocate(network.sets[0]);
    tables_.allocate(network.sets[0]);
  }

  void make() const {
    insert();
    clear(tables_.data(), sizeof(int32_t) * tables_.total(), -1, stream_);
    if (network_.columns == 2) search<2>();
    if (network_.columns == 3) search<3>();
    if (network_.columns == 4) search<4>();
    if (network_.columns == 5) search<5>();
  }

  const int32_t* table(const TableName& name) const { return tables_.at(offset(name)); }

  int64_t size(const TableName& name) const {
    return network_.taps(name) * network_.table_rows(name);
  }

  const Tensor& all_slots() const { return slots_.memory(); }
  const Tensor& all_tables() const { return tables_.memory(); }

 private:
  bool is_fine(int64_t set) const {
    for (const NetworkMap& map : network_.maps)
      if (map.fine == set) return true;
    return false;
  }

  int64_t slots_of(int64_t set) const { return slot_count(network_.rows(set)); }

  SlotTable slot_table_of(int64_t set) const {
    return {reinterpret_cast<const uint64_t*>(slots_.at(slots_at_[set])),
            static_cast<uint64_t>(slots_of(set)) - 1, input<int32_t>(network_.sets[set]),
            network_.rows(set), network_.columns};
  }

  int64_t offset(const TableName& name) const {
    return name.reversed ? reverse_at_[name.map] : at_[name.map];
  }

  void insert() const {
    clear(slots_.data(), sizeof(int64_t) * slots_.total(), 0, stream_);
    std::vector<InsertJob> jobs;
    for (int64_t set = 0; set < static_cast<int64_t>(network_.sets.size()); ++set)
      if (is_fine(set))
        jobs.push_back({slot_table_of(set), reinterpret_cast<Word*>(slots_.at(slots_at_[set]))});
    launch_jobs(
        jobs, [](const InsertJob& job) { return blocks_for(job.table.count); },
        [&](const Jobs<InsertJob>& batch, int64_t blocks) {
          FL_LAUNCH(insert_all_kernel, blocks, kThreads, 0, stream_, batch);
        });
  }

  template <int C>
  void search() const {
    std::vector<TableJob<C>> jobs;
    for (int64_t m = 0; m < static_cast<int64_t>(network_.maps.size()); ++m) {
      const NetworkMap& map = network_.maps[m];
      const int64_t taps = tap_count(map.reach), length = map.reach.axes[C - 2].taps;
      const int64_t searched = map.symmetric ? taps / 2 : taps;
      TableJob<C> job{};
      job.search = {slot_table_of(map.fine),   map.reach, input<int32_t>(network_.sets[map.coarse]),
                    network_.rows(map.coarse), taps,      tables_.at(at_[m])};
      job.reverse = map.with_reverse ? tables_.at(reverse_at_[m]) : nullptr;
      job.n_fine = network_.rows(map.fine);
      job.lines = std::max<int64_t>(1, (searched + length - 1) / length);
      job.symmetric = map.symmetric;
      jobs.push_back(job);
    }
    launch_jobs(
        jobs, [](const TableJob<C>& job) { return blocks_for(job.search.count) * job.lines; },
        [&](const Jobs<TableJob<C>>& batch, int64_t blocks) {
          FL_LAUNCH((tables_kernel<C>), blocks, kThreads, 0, stream_, batch);
        });
  }

  const Network& network_;
  Stream stream_;
  Slices<int64_t> slots_{ScalarType::Long};
  Slices<int32_t> tables_{ScalarType::Int};
  std::vector<int64_t> slots_at_, at_, reverse_at_;
};

}  // namespace
}  // namespace fl::sparse
