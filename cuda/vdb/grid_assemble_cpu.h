// SPDX-License-Identifier: Apache-2.0
//
// Puts nested masks together on the CPU. Threads take runs of tops in order, each run collects its
// nodes and leaves in memory of its own, and the runs are laid end to end: the layout is that of
// one thread, whatever their number.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/parallel.h"
#include "vdb/grid_entry.h"

namespace fl::vdb {

class Run {
 public:
  explicit Run(Node* tops) : tops_(tops) {}

  // words(bit, out) writes the non-empty leaves of a node, in order, and returns their mask.
  template <typename Words>
  void add_top(int64_t top, uint64_t candidates, Words&& words) {
    Node& own = tops_[top] = {0, static_cast<int64_t>(nodes.size())};
    for (; candidates != 0; candidates &= candidates - 1) {
      const int bit = lowest_bit(candidates);
      uint64_t out[64];
      const uint64_t mask = words(bit, out);
      if (mask == 0) continue;
      nodes.push_back({mask, static_cast<int64_t>(leaves.size())});
      leaves.insert(leaves.end(), out, out + count_bits(mask));
      own.mask |= uint64_t{1} << bit;
    }
  }

  std::vector<Node> nodes;
  std::vector<uint64_t> leaves;

 private:
  Node* tops_;
};

// unit(index, worker, run) adds the tops from start_of(index) to start_of(index + 1), all of them.
template <typename StartOf, typename Unit>
MaskTensors assemble(const Tensor& like, const GridShape& shape, int64_t units,
                     const StartOf& start_of, const Unit& unit) {
  const Tensor tops_tensor = new_tops(like, shape);
  Node* tops = output<Node>(tops_tensor);
  // A few for each thread, because sparse and dense ones differ in cost.
  const int64_t runs = std::min(units, thread_count() == 1 ? 1 : 8 * thread_count());
  std::vector<Run> parts(runs, Run(tops));
  parallel_dynamic(runs, [&](int64_t r, int64_t worker) {
    for (int64_t u = units * r / runs; u < units * (r + 1) / runs; ++u) unit(u, worker, parts[r]);
  });
  std::vector<int64_t> node_start(runs + 1, 0), leaf_start(runs + 1, 0);
  for (int64_t r = 0; r < runs; ++r) {
    node_start[r + 1] = node_start[r] + static_cast<int64_t>(parts[r].nodes.size());
    leaf_start[r + 1] = leaf_start[r] + static_cast<int64_t>(parts[r].leaves.size());
  }
  const MaskTensors out = empty_children(like, tops_tensor, node_start[runs], leaf_start[runs]);
  Node* nodes = output<Node>(std::get<1>(out));
  uint64_t* leaves = output<uint64_t>(std::get<2>(out));
  parallel_dynamic(runs, [&](int64_t r, int64_t) {
    for (int64_t t = start_of(units * r / runs); t < start_of(units * (r + 1) / runs); ++t)
      tops[t].first = tops[t].mask != 0 ? tops[t].first + node_start[r] : 0;
    for (std::size_t n = 0; n < parts[r].nodes.size(); ++n)
      nodes[node_start[r] + n] = {parts[r].nodes[n].mask, parts[r].nodes[n].first + leaf_start[r]};
    if (!parts[r].leaves.empty())
      std::memcpy(leaves + leaf_start[r], parts[r].leaves.data(),
                  parts[r].leaves.size() * sizeof(uint64_t));
  });
  return out;
}

// As above, a top a unit.
template <typename Top>
MaskTensors assemble_tops(const Tensor& like, const GridShape& shape, const Top& top) {
  return assemble(
      like, shape, shape.tops(), [](int64_t t) { return t; },
      [&](int64_t t, int64_t, Run& run) { top(t, run); });
}

}  // namespace fl::vdb
