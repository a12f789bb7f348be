// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of lists: a thread a leaf, a coordinate, or a place for a node. Grids are built
// from coordinates by a sort of keys; the first key of each leaf and of each node is found, and a
// scan of those places them. The host waits for the number of leaves and nodes, or of voxels.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/grid_counts.h"
#include "vdb/grid_lists_entry.h"

namespace fl::vdb {
namespace {

constexpr int kThreads = 256;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_D int64_t this_thread() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

template <typename I>
FL_KERNEL key_kernel(GridShape shape, Coordinates<I> rows, uint64_t* keys) {
  const int64_t i = this_thread();
  if (i < rows.count) keys[i] = key_of(shape, rows, i);
}

// Those outside have a key with this bit, beyond all tops.
struct SortedKeys {
  const uint64_t* keys;
  int64_t count;
  uint64_t outside;

  // What a key begins: nothing, a leaf, or a node and a leaf.
  FL_D int64_t begins(int64_t i) const {
    const uint64_t key = keys[i];
    if ((key & outside) != 0) return 0;
    const uint64_t before = i > 0 ? keys[i - 1] : ~key;
    if (key >> kNodeShift != before >> kNodeShift) return count_node(1);
    return key >> kLeafShift != before >> kLeafShift ? 1 : 0;
  }
};

FL_KERNEL begin_kernel(SortedKeys sorted, int64_t* counts) {
  const int64_t i = this_thread();
  if (i < sorted.count) counts[i] = sorted.begins(i);
  if (i == sorted.count) counts[i] = 0;
}

// starts[i + 1] counts up to and with key i: less one is the index of what it is in.
FL_KERNEL place_kernel(SortedKeys sorted, const int64_t* starts, Node* tops, Node* nodes,
                       uint64_t* leaves) {
  const int64_t i = this_thread();
  if (i >= sorted.count || (sorted.keys[i] & sorted.outside) != 0) return;
  const uint64_t key = sorted.keys[i];
  const int64_t leaf = leaves_in(starts[i + 1]) - 1, node = nodes_in(starts[i + 1]) - 1;
  using Word = unsigned long long;
  atomicOr(reinterpret_cast<Word*>(leaves + leaf), Word{1} << (key & 63));
  const int64_t began = sorted.begins(i);
  if (began == 0) return;
  atomicOr(reinterpret_cast<Word*>(&nodes[node].mask), Word{1} << (key >> kLeafShift & 63));
  if (nodes_in(began) == 0) return;
  nodes[node].first = leaf;
  Node* top = tops + (key >> kTopShift);
  atomicOr(reinterpret_cast<Word*>(&top->mask), Word{1} << (key >> kNodeShift & 63));
  if (i == 0 || sorted.keys[i - 1] >> kTopShift != key >> kTopShift) top->first = node;
}

FL_KERNEL popcount_kernel(const uint64_t* leaves, int64_t n, int64_t* counts) {
  const int64_t i = this_thread();
  if (i < n) counts[i] = count_bits(leaves[i]);
  if (i == n) counts[i] = 0;
}

FL_KERNEL origin_kernel(Masks m, GridShape shape, int32_t* origins) {
  const int64_t i = this_thread();
  if (i >= shape.tops() * 64) return;
  const Node top = m.tops[i / 64];
  const int bit = static_cast<int>(i % 64);
  if (!has_bit(top.mask, bit)) return;
  const Node node = m.nodes[child_index(top, bit)];
  const Place place = top_place(shape, i / 64);
  int32_t* row = origins + 4 * node.first;
  for (uint64_t leaves = node.mask; leaves != 0; leaves &= leaves - 1, row += 4) {
    const int leaf = lowest_bit(leaves);
    row[0] = place.level;
    row[1] = place.x + bit_x(bit) * kNodeEdge + bit_x(leaf) * kLeafEdge;
    row[2] = place.y + bit_y(bit) * kNodeEdge + bit_y(leaf) * kLeafEdge;
    row[3] = place.z + bit_z(bit) * kNodeEdge + bit_z(leaf) * kLeafEdge;
  }
}

FL_KERNEL voxel_kernel(const uint64_t* leaves, int64_t n, const int64_t* offsets,
                       const int32_t* origins, int32_t* rows) {
  const int64_t i = this_thread();
  if (i < n) write_voxels(leaves[i], origins + 4 * i, rows + 4 * offsets[i]);
}

template <typename I>
FL_KERNEL index_kernel(Masks m, const int64_t* offsets, Coordinates<I> rows, int64_t* found) {
  const int64_t i = this_thread();
  if (i < rows.count) found[i] = index_of(m, offsets, rows, i);
}

struct CudaLists {
  template <typename I>
  static MaskTensors build(const GridShape& shape, const Coordinates<I>& rows, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = rows.count;
    const int bits = kTopShift + top_bits(shape);
    const Scratch keys(sizeof(uint64_t) * n), sorted(sizeof(uint64_t) * n), nothing(2 * n);
    const Scratch counts(sizeof(int64_t) * (n + 1));
    int64_t* starts = counts.data<int64_t>();
    FL_LAUNCH((key_kernel<I>), blocks_for(n), kThreads, 0, stream, shape, rows,
              keys.data<uint64_t>());
    zero_async(nothing.data(), n, stream);
    sort_pairs(keys.data<uint64_t>(), sorted.data<uint64_t>(), nothing.data<uint8_t>(),
               nothing.data<uint8_t>() + n, n, 0, bits + 1, stream);
    const SortedKeys order{sorted.data<uint64_t>(), n, uint64_t{1} << bits};
    FL_LAUNCH(begin_kernel, blocks_for(n + 1), kThreads, 0, stream, order, starts);
    exclusive_scan(starts, starts, n + 1, stream);
    PendingRead read(starts + n, sizeof(int64_t), stream);
    const Tensor tops = new_tops(like, shape);
    zero_async(output<Node>(tops), sizeof(Node) * shape.tops(), stream);
    int64_t total = 0;
    read.wait(&total);
    const MaskTensors out = empty_children(like, tops, nodes_in(total), leaves_in(total));
    Node* nodes = output<Node>(std::get<1>(out));
    uint64_t* leaves = output<uint64_t>(std::get<2>(out));
    zero_async(nodes, sizeof(Node) * nodes_in(total), stream);
    zero_async(leaves, sizeof(uint64_t) * leaves_in(total), stream);
    FL_LAUNCH(place_kernel, blocks_for(n), kThreads, 0, stream, order, starts, output<Node>(tops),
              nodes, leaves);
    return out;
  }

  static void offsets(const uint64_t* leaves, int64_t n, int64_t* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    FL_LAUNCH(popcount_kernel, blocks_for(n + 1), kThreads, 0, stream, leaves, n, out);
    exclusive_scan(out, out, n + 1, stream);
  }

  static void origins(const Masks& m, int32_t* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const GridShape shape = shape_of(m);
    FL_LAUNCH(origin_kernel, blocks_for(shape.tops() * 64), kThreads, 0,
              current_stream(like.get_device_index()), m, shape, out);
  }

  static Tensor coordinates(const uint64_t* leaves, int64_t n, const int64_t* offsets,
                            const int32_t* origins, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    int64_t count = 0;
    copy_to_host(&count, offsets + n, sizeof(int64_t), stream);
    const Tensor rows = new_empty(like, {count, 4}, ScalarType::Int);
    FL_LAUNCH(voxel_kernel, blocks_for(n), kThreads, 0, stream, leaves, n, offsets, origins,
              output<int32_t>(rows));
    return rows;
  }

  template <typename I>
  static void index(const Masks& m, const int64_t* offsets, const Coordinates<I>& rows,
                    int64_t* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((index_kernel<I>), blocks_for(rows.count), kThreads, 0,
              current_stream(like.get_device_index()), m, offsets, rows, out);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_from_coordinates", TORCH_BOX(&vdb_from_coordinates<CudaLists>));
  m.impl("vdb_leaf_offsets", TORCH_BOX(&vdb_leaf_offsets<CudaLists>));
  m.impl("vdb_leaf_origins", TORCH_BOX(&vdb_leaf_origins<CudaLists>));
  m.impl("vdb_coordinates", TORCH_BOX(&vdb_coordinates<CudaLists>));
  m.impl("vdb_value_index", TORCH_BOX(&vdb_value_index<CudaLists>));
}

}  // namespace fl::vdb
