// SPDX-License-Identifier: Apache-2.0
//
// The pairs of all tables of a network that are wanted as pairs. A block counts a run of places of
// one tap; a scan over the blocks says where each of them writes. The host waits once to know how
// many there are.
#pragma once

#include "core/sort_scan.h"
#include "sparse/network_tables_cuda.h"

namespace fl::sparse {
namespace {

constexpr int kRunPlaces = 8 * kThreads;

struct PairJob {
  const int32_t* table;
  int64_t taps, rows, first_run;
  int32_t *in_rows, *out_rows;
  int64_t* starts;

  FL_HD int64_t runs_per_tap() const { return (rows + kRunPlaces - 1) / kRunPlaces; }
  FL_HD int64_t runs() const { return taps * runs_per_tap(); }
};

FL_KERNEL count_runs_kernel(FL_GRID_CONSTANT Jobs<PairJob> jobs, int32_t* counts) {
  int64_t run;
  const PairJob& job = jobs.mine(&run);
  const int64_t tap = run / job.runs_per_tap();
  const int64_t first = run % job.runs_per_tap() * kRunPlaces;
  int count = 0;
  for (int64_t i = first; i < first + kRunPlaces; i += kThreads) {
    const int64_t place = i + threadIdx.x;
    count += __syncthreads_count(place < job.rows && job.table[tap * job.rows + place] >= 0);
  }
  if (threadIdx.x == 0) counts[job.first_run + run] = count;
}

// Keeps the order of places: threads in turn, then warps in turn, then rounds.
FL_KERNEL list_runs_kernel(FL_GRID_CONSTANT Jobs<PairJob> jobs, const int64_t* before) {
  constexpr int kWarps = kThreads / 32;
  FL_SHARED(int, warp_counts, kWarps);
  int64_t run;
  const PairJob& job = jobs.mine(&run);
  const int64_t tap = run / job.runs_per_tap();
  const int64_t first = run % job.runs_per_tap() * kRunPlaces, origin = before[job.first_run];
  int64_t next = before[job.first_run + run] - origin;
  if (threadIdx.x == 0 && first == 0) job.starts[tap] = next;
  if (threadIdx.x == 0 && run + 1 == job.runs())
    job.starts[job.taps] = before[job.first_run + run + 1] - origin;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int64_t i = first; i < first + kRunPlaces && i < job.rows; i += kThreads) {
    const int64_t place = i + threadIdx.x;
    const int32_t found = place < job.rows ? job.table[tap * job.rows + place] : -1;
    const unsigned present = __ballot_sync(0xFFFFFFFFu, found >= 0);
    if (lane == 0) warp_counts[warp] = __popc(present);
    __syncthreads();
    int64_t at = next + __popc(present & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) at += warp_counts[w];
      next += warp_counts[w];
    }
    if (found >= 0) {
      job.in_rows[at] = found;
      job.out_rows[at] = static_cast<int32_t>(place);
    }
    __syncthreads();
  }
}

class NetworkPairs {
 public:
  NetworkPairs(const Network& network, const NetworkTables& tables, Stream stream)
      : network_(network), stream_(stream) {
    for (const TableName& name : network.pairs) {
      PairJob job{};
      job.table = tables.table(name);
      job.taps = network.taps(name);
      job.rows = network.table_rows(name);
      job.first_run = runs_;
      starts_at_.push_back(starts_.add(job.taps + 1));
      runs_ += job.runs();
      jobs_.push_back(job);
    }
  }

  // Queues the counting, and the way of the totals to the host.
  void count() {
    starts_.allocate(network_.sets[0]);
    if (jobs_.empty()) return;
    clear(starts_.data(), sizeof(int64_t) * starts_.total(), 0, stream_);
    counts_.emplace(sizeof(int32_t) * (runs_ + 1));
    before_.emplace(sizeof(int64_t) * (runs_ + 1));
    launch_jobs(
        jobs_, [](const PairJob& job) { return job.runs(); },
        [&](const Jobs<PairJob>& batch, int64_t blocks) {
          FL_LAUNCH(count_runs_kernel, blocks, kThreads, 0, stream_, batch,
                    counts_->data<int32_t>());
        });
    // The last count is read by nobody: of an exclusive scan, it is the end.
    exclusive_scan(counts_->data<int32_t>(), before_->data<int64_t>(), runs_ + 1, stream_);
  }

  // Waits, and lists.
  void list() {
    if (jobs_.empty()) return rows_.allocate(network_.sets[0]);
    const Numbers ends = read_ends();
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      totals_.push_back(ends[j + 1] - ends[j]);
      in_at_.push_back(rows_.add(totals_.back()));
      out_at_.push_back(rows_.add(totals_.back()));
    }
    rows_.allocate(network_.sets[0]);
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      jobs_[j].in_rows = rows_.at(in_at_[j]);
      jobs_[j].out_rows = rows_.at(out_at_[j]);
      jobs_[j].starts = starts_.at(starts_at_[j]);
    }
    launch_jobs(
        jobs_, [](const PairJob& job) { return job.runs(); },
        [&](const Jobs<PairJob>& batch, int64_t blocks) {
          FL_LAUNCH(list_runs_kernel, blocks, kThreads, 0, stream_, batch,
                    before_->data<int64_t>());
        });
  }

  const Tensor& all_rows() const { return rows_.memory(); }
  const Tensor& all_starts() const { return starts_.memory(); }
  const Numbers& totals() const { return totals_; }

 private:
  // Where the pairs of each table end, among those of all.
  Numbers read_ends() const {
    Numbers ends(runs_ + 1);
    copy_to_host(ends.data(), before_->data<int64_t>(), sizeof(int64_t) * ends.size(), stream_);
    Numbers at_jobs;
    for (const PairJob& job : jobs_) at_jobs.push_back(ends[job.first_run]);
    at_jobs.push_back(ends[runs_]);
    return at_jobs;
  }

  const Network& network_;
  Stream stream_;
  std::vector<PairJob> jobs_;
  int64_t runs_ = 0;
  Slices<int64_t> starts_{ScalarType::Long};
  Slices<int32_t> rows_{ScalarType::Int};
  std::optional<Scratch> counts_, before_;
  std::vector<int64_t> starts_at_, in_at_, out_at_, totals_;
};

}  // namespace
}  // namespace fl::sparse
