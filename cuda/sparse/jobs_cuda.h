// SPDX-License-Identifier: Apache-2.0
//
// One launch for several jobs of different sizes: each has a run of the grid's blocks.
#pragma once

#include <vector>

#include "core/portable.h"

// Read where they lie: a copy for each thread, which its address would else ask for, is slow.
#if defined(__CUDACC__)
#define FL_GRID_CONSTANT const __grid_constant__
#else
#define FL_GRID_CONSTANT const
#endif

namespace fl::sparse {

// At most as many as the arguments of a kernel, 4 KB, have room for.
template <typename Job>
struct Jobs {
  static constexpr int kMost = static_cast<int>(3584 / (sizeof(Job) + sizeof(int64_t)));
  static_assert(kMost > 0, "a job has to fit into a kernel's arguments");

  Job job[kMost];
  int64_t first_block[kMost + 1];
  int count;

  // The job of this block; *block is then its number among the job's.
  FL_D const Job& mine(int64_t* block) const {
    const int64_t own = blockIdx.x;
    int at = 0;
    while (at + 1 < count && own >= first_block[at + 1]) ++at;
    *block = own - first_block[at];
    return job[at];
  }
};

// Calls launch(jobs, blocks) for all of them, as many at a time as there is room for.
template <typename Job, typename Blocks, typename Launch>
void launch_jobs(const std::vector<Job>& all, const Blocks& blocks_of, const Launch& launch) {
  Jobs<Job> jobs{};
  const auto flush = [&] {
    if (jobs.count > 0) launch(jobs, jobs.first_block[jobs.count]);
    jobs.count = 0;
  };
  for (const Job& job : all) {
    const int64_t blocks = blocks_of(job);
    if (blocks == 0) continue;
    if (jobs.count == Jobs<Job>::kMost) flush();
    jobs.job[jobs.count] = job;
    jobs.first_block[jobs.count + 1] = jobs.first_block[jobs.count] + blocks;
    ++jobs.count;
  }
  flush();
}

}  // namespace fl::sparse
