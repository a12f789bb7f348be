// SPDX-License-Identifier: Apache-2.0
//
// The orders of rows of all schedules of a network (convolution_plan.h says what they are): the
// masks of all rows in one launch, one stable sort with schedule and run of taps above the mask,
// and one launch that reads it.
#pragma once

#include "core/sort_scan.h"
#include "sparse/network_tables_cuda.h"

namespace fl::sparse {
namespace {

constexpr int kPlaces = 128;  // the larger of the two tiles

struct ScheduleJob {
  PlanShape shape;
  const int32_t* table;
  int64_t first_entry, first_segment;
  int32_t *order, *permuted, *masks_64, *masks_128;  // masks null: not wanted

  FL_HD int64_t blocks(int64_t threads) const {
    return (shape.n_out + threads - 1) / threads * shape.splits;
  }
};

// Of an entry, a row of one run of taps.
template <typename Key>
FL_KERNEL all_masks_kernel(FL_GRID_CONSTANT Jobs<ScheduleJob> jobs, int mask_bits, Key* keys,
                           int32_t* rows) {
  int64_t block;
  const ScheduleJob& job = jobs.mine(&block);
  const PlanShape& shape = job.shape;
  const int64_t split = block % shape.splits, row = block / shape.splits * kThreads + threadIdx.x;
  if (row >= shape.n_out) return;
  const int64_t first = shape.first_tap(split), end = shape.end_tap(split);
  const int32_t* FL_RESTRICT table = job.table;
  uint64_t mask = 0;
  for (int64_t tap = first; tap < end; ++tap)
    mask |= static_cast<uint64_t>(table[tap * shape.n_out + row] >= 0) << (tap - first);
  const uint64_t segment = static_cast<uint64_t>(job.first_segment + split) << mask_bits;
  const int64_t entry = job.first_entry + split * shape.n_out + row;
  keys[entry] = static_cast<Key>(segment | shape.key(mask, 0));
  rows[entry] = static_cast<int32_t>(row);
}

// A block 128 places of a run of taps, a thread a place.
template <typename Key>
FL_KERNEL all_places_kernel(FL_GRID_CONSTANT Jobs<ScheduleJob> jobs, const Key* keys,
                            const int32_t* rows) {
  FL_SHARED(unsigned, warp_masks, kPlaces / 32);
  int64_t block;
  const ScheduleJob& job = jobs.mine(&block);
  const PlanShape& shape = job.shape;
  const int64_t split = block % shape.splits, tile = block / shape.splits;
  const int64_t place = tile * kPlaces + threadIdx.x, base = split * shape.n_out;
  const bool exists = place < shape.n_out;
  const unsigned mask = exists ? shape.mask(keys[job.first_entry + base + place]) : 0u;
  const unsigned joined = __reduce_or_sync(0xffffffffu, mask);
  if (threadIdx.x % 32 == 0) warp_masks[threadIdx.x / 32] = joined;
  __syncthreads();
  if (threadIdx.x < 2) {
    const unsigned half = warp_masks[2 * threadIdx.x] | warp_masks[2 * threadIdx.x + 1];
    const int64_t tiles_64 = (shape.n_out + 63) / 64, tiles_128 = (shape.n_out + 127) / 128;
    const int64_t tile_64 = 2 * tile + threadIdx.x;
    if (job.masks_64 != nullptr && tile_64 < tiles_64)
      job.masks_64[split * tiles_64 + tile_64] = static_cast<int32_t>(half);
    if (job.masks_128 != nullptr && threadIdx.x == 0)
      job.masks_128[split * tiles_128 + tile] =
          static_cast<int32_t>(half | warp_masks[2] | warp_masks[3]);
  }
  if (!exists) return;
  const int32_t row = rows[job.first_entry + base + place];
  job.order[base + place] = row;
  job.order[shape.splits * shape.n_out + base + row] = mask != 0 ? static_cast<int32_t>(place) : -1;
  const int64_t first = shape.first_tap(split), end = shape.end_tap(split);
  const int32_t* FL_RESTRICT table = job.table;
  int32_t* FL_RESTRICT permuted = job.permuted;
  for (int64_t tap = first; tap < end; ++tap)
    permuted[tap * shape.n_out + place] =
        mask >> (tap - first) & 1u ? table[tap * shape.n_out + row] : -1;
}

class NetworkSchedules {
 public:
  NetworkSchedules(const Network& network, const NetworkTables& tables, Stream stream)
      : network_(network), stream_(stream) {
    for (const NetworkSchedule& schedule : network.schedules) {
      const PlanShape shape = network.shape(schedule, 64);
      const int64_t n = shape.n_out, splits = shape.splits;
      places_.push_back({memory_.add(2 * splits * n), memory_.add(shape.n_taps * n),
                         memory_.add(schedule.masks_64 ? splits * tiles(n, 64) : 0),
                         memory_.add(schedule.masks_128 ? splits * tiles(n, 128) : 0)});
    }
    memory_.allocate(network.sets[0]);
    for (std::size_t s = 0; s < network.schedules.size(); ++s) add_job(s, tables);
  }

  void make() const {
    int segment_bits = 0;
    while (segments_ > int64_t{1} << segment_bits) ++segment_bits;
    if (mask_bits_ + segment_bits <= 32)
      sort<uint32_t>(mask_bits_ + segment_bits);
    else
      sort<uint64_t>(mask_bits_ + segment_bits);
  }

  const Tensor& all() const { return memory_.memory(); }

 private:
  struct Places {
    int64_t order, permuted, masks_64, masks_128;
  };

  static int64_t tiles(int64_t rows, int64_t tile_rows) {
    return (rows + tile_rows - 1) / tile_rows;
  }

  void add_job(std::size_t s, const NetworkTables& tables) {
    const NetworkSchedule& schedule = network_.schedules[s];
    const Places& at = places_[s];
    ScheduleJob job{};
    job.shape = network_.shape(schedule, 64);
    job.table = tables.table(schedule.table);
    job.first_entry = entries_;
    job.first_segment = segments_;
    job.order = memory_.at(at.order);
    job.permuted = memory_.at(at.permuted);
    job.masks_64 = schedule.masks_64 ? memory_.at(at.masks_64) : nullptr;
    job.masks_128 = schedule.masks_128 ? memory_.at(at.masks_128) : nullptr;
    jobs_.push_back(job);
    entries_ += job.shape.splits * job.shape.n_out;
    segments_ += job.shape.splits;
    mask_bits_ = std::max(mask_bits_, static_cast<int>(job.shape.split_taps));
  }

  template <typename Key>
  void sort(int bits) const {
    const Scratch key_memory(2 * sizeof(Key) * entries_);
    const Scratch row_memory(2 * sizeof(int32_t) * entries_);
    Key* keys = key_memory.template data<Key>();
    int32_t* rows = row_memory.template data<int32_t>();
    launch_jobs(
        jobs_, [](const ScheduleJob& job) { return job.blocks(kThreads); },
        [&](const Jobs<ScheduleJob>& batch, int64_t blocks) {
          FL_LAUNCH((all_masks_kernel<Key>), blocks, kThreads, 0, stream_, batch, mask_bits_, keys,
                    rows);
        });
    sort_pairs(keys, keys + entries_, rows, rows + entries_, entries_, 0, bits, stream_);
    launch_jobs(
        jobs_, [](const ScheduleJob& job) { return job.blocks(kPlaces); },
        [&](const Jobs<ScheduleJob>& batch, int64_t blocks) {
          FL_LAUNCH((all_places_kernel<Key>), blocks, kPlaces, 0, stream_, batch, keys + entries_,
                    rows + entries_);
        });
  }

  const Network& network_;
  Stream stream_;
  Slices<int32_t> memory_{ScalarType::Int};
  std::vector<Places> places_;
  std::vector<ScheduleJob> jobs_;
  int64_t entries_ = 0, segments_ = 0;
  int mask_bits_ = 0;
};

}  // namespace
}  // namespace fl::sparse
