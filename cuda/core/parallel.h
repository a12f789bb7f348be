// SPDX-License-Identifier: Apache-2.0
//
// CPU threads: torch's own pool, so that torch.set_num_threads rules here too.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <torch/csrc/stable/ops.h>

namespace fl {

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// f(begin, end) over disjoint ranges that cover [begin, end).
template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin >= end) return;
  if (end - begin <= grain || thread_count() == 1)
    f(begin, end);
  else
    torch::stable::parallel_for(begin, end, std::max<int64_t>(grain, 1), f);
}

// f(index, worker) for every index in [0, count), each worker taking the next free index: for
// items of uneven cost. `worker` < thread_count() names scratch that one thread owns.
template <typename F>
void parallel_dynamic(int64_t count, const F& f) {
  const int64_t workers = std::min(thread_count(), count);
  if (workers <= 1) {
    for (int64_t i = 0; i < count; ++i) f(i, int64_t{0});
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker)
      for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) f(i, worker);
  });
}

}  // namespace fl
