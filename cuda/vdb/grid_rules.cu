// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of rules, a thread a word, from the top down: the words of one height, a scan of
// their bits, and the places of their children; at last what is empty goes. The host waits three
// times: for the number of candidate nodes, of candidate leaves, and of both that are left.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/grid_counts.h"
#include "vdb/grid_rules_entry.h"

namespace fl::vdb {
namespace {

constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_D int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// Where a word came from: its parent's index and its bit in it.
FL_D void list_children(uint64_t mask, int64_t parent, int64_t* origins) {
  for (; mask != 0; mask &= mask - 1) *origins++ = parent * 64 + lowest_bit(mask);
}

FL_D Place node_place(const GridShape& shape, const int64_t* node_origins, int64_t node) {
  const int64_t origin = node_origins[node];
  return child_place<Height::top>(top_place(shape, origin / 64), static_cast<int>(origin % 64));
}

template <typename Rule>
FL_KERNEL top_kernel(Rule rule, int64_t n, uint64_t* masks, int64_t* counts) {
  const int64_t i = this_thread();
  if (i > n) return;
  uint64_t mask = 0;
  if (i < n) masks[i] = mask = rule.template word<Height::top>(top_place(rule.shape, i));
  counts[i] = count_bits(mask);
}

FL_KERNEL children_kernel(const uint64_t* masks, const int64_t* starts, int64_t n,
                          int64_t* origins) {
  const int64_t i = this_thread();
  if (i < n) list_children(masks[i], i, origins + starts[i]);
}

template <typename Rule>
FL_KERNEL node_kernel(Rule rule, const int64_t* node_origins, int64_t n, uint64_t* masks,
                      int64_t* counts) {
  const int64_t i = this_thread();
  if (i > n) return;
  uint64_t mask = 0;
  if (i < n)
    masks[i] = mask = rule.template word<Height::node>(node_place(rule.shape, node_origins, i));
  counts[i] = count_bits(mask);
}

template <typename Rule>
FL_KERNEL leaf_kernel(Rule rule, const int64_t* node_origins, const int64_t* leaf_origins,
                      int64_t n, uint64_t* words) {
  const int64_t i = this_thread();
  if (i >= n) return;
  const int64_t origin = leaf_origins[i];
  const Place node = node_place(rule.shape, node_origins, origin / 64);
  words[i] = rule.template word<Height::leaf>(
      child_place<Height::node>(node, static_cast<int>(origin % 64)));
}

// Takes the empty leaves out of each node's mask.
FL_KERNEL prune_kernel(const uint64_t* words, const int64_t* leaf_starts, int64_t n,
                       uint64_t* masks, int64_t* counts) {
  const int64_t i = this_thread();
  if (i > n) return;
  uint64_t kept = 0;
  if (i < n) {
    int64_t leaf = leaf_starts[i];
    for (uint64_t left = masks[i]; left != 0; left &= left - 1, ++leaf)
      if (words[leaf] != 0) kept |= left & (~left + 1);
    masks[i] = kept;
  }
  counts[i] = count_node(kept);
}

FL_KERNEL fill_kernel(const uint64_t* words, const int64_t* leaf_starts, const uint64_t* masks,
                      const int64_t* starts, int64_t n, Node* nodes, uint64_t* leaves) {
  const int64_t i = this_thread();
  if (i >= n || masks[i] == 0) return;
  int64_t out = leaves_in(starts[i]);
  nodes[nodes_in(starts[i])] = {masks[i], out};
  for (int64_t leaf = leaf_starts[i]; leaf < leaf_starts[i + 1]; ++leaf)
    if (words[leaf] != 0) leaves[out++] = words[leaf];
}

FL_KERNEL finish_kernel(const uint64_t* top_masks, const int64_t* node_starts,
                        const uint64_t* node_masks, const int64_t* starts, int64_t n, Node* tops) {
  const int64_t i = this_thread();
  if (i >= n) return;
  uint64_t kept = 0;
  int64_t node = node_starts[i];
  for (uint64_t left = top_masks[i]; left != 0; left &= left - 1, ++node)
    if (node_masks[node] != 0) kept |= left & (~left + 1);
  tops[i] = {kept, kept != 0 ? nodes_in(starts[node_starts[i]]) : 0};
}

// Words of one height and where their children begin.
struct Row {
  int64_t count;
  Scratch masks, starts;

  explicit Row(int64_t n)
      : count(n), masks(sizeof(uint64_t) * n), starts(sizeof(int64_t) * (n + 1)) {}
  uint64_t* mask() const { return masks.data<uint64_t>(); }
  int64_t* start() const { return starts.data<int64_t>(); }

  int64_t scan(Stream stream) const {
    exclusive_scan(start(), start(), count + 1, stream);
    int64_t total = 0;
    copy_to_host(&total, start() + count, sizeof(int64_t), stream);
    return total;
  }

  Scratch children(int64_t total, Stream stream) const {
    Scratch origins(sizeof(int64_t) * total);
    FL_LAUNCH(children_kernel, blocks_for(count), kThreads, 0, stream, mask(), start(), count,
              origins.data<int64_t>());
    return origins;
  }
};

struct CudaRules {
  template <typename Rule>
  static MaskTensors run(const Rule& rule, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const Row top(rule.shape.tops());
    FL_LAUNCH((top_kernel<Rule>), blocks_for(top.count + 1), kThreads, 0, stream, rule, top.count,
              top.mask(), top.start());
    const Row node(top.scan(stream));
    const Scratch node_origins = top.children(node.count, stream);
    FL_LAUNCH((node_kernel<Rule>), blocks_for(node.count + 1), kThreads, 0, stream, rule,
              node_origins.data<int64_t>(), node.count, node.mask(), node.start());
    const int64_t n_leaves = node.scan(stream);
    const Scratch leaf_origins = node.children(n_leaves, stream);
    const Scratch words(sizeof(uint64_t) * n_leaves);
    FL_LAUNCH((leaf_kernel<Rule>), blocks_for(n_leaves), kThreads, 0, stream, rule,
              node_origins.data<int64_t>(), leaf_origins.data<int64_t>(), n_leaves,
              words.data<uint64_t>());
    return compact(top, node, words.data<uint64_t>(), rule.shape, like, stream);
  }

  static MaskTensors compact(const Row& top, const Row& node, const uint64_t* words,
                             const GridShape& shape, const Tensor& like, Stream stream) {
    const Scratch counts(sizeof(int64_t) * (node.count + 1));
    int64_t* starts = counts.data<int64_t>();
    FL_LAUNCH(prune_kernel, blocks_for(node.count + 1), kThreads, 0, stream, words, node.start(),
              node.count, node.mask(), starts);
    exclusive_scan(starts, starts, node.count + 1, stream);
    int64_t total = 0;
    copy_to_host(&total, starts + node.count, sizeof(int64_t), stream);
    const Tensor tops = new_tops(like, shape);
    const MaskTensors out = empty_children(like, tops, nodes_in(total), leaves_in(total));
    FL_LAUNCH(fill_kernel, blocks_for(node.count), kThreads, 0, stream, words, node.start(),
              node.mask(), starts, node.count, output<Node>(std::get<1>(out)),
              output<uint64_t>(std::get<2>(out)));
    FL_LAUNCH(finish_kernel, blocks_for(top.count), kThreads, 0, stream, top.mask(), top.start(),
              node.mask(), starts, top.count, output<Node>(tops));
    return out;
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_combine", TORCH_BOX(&vdb_combine<CudaRules>));
  m.impl("vdb_morph", TORCH_BOX(&vdb_morph<CudaRules>));
  m.impl("vdb_resample", TORCH_BOX(&vdb_resample<CudaRules>));
}

}  // namespace fl::vdb
