// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of building from a dense tensor, in one pass over it, and of writing one. The host
// waits once, for the number of nodes and leaves.
//
//   pack    a block a slab of 16 nodes, a thread a leaf: 16 loads of 4 bytes, beside its
//   neighbours' scan    over all places for nodes, of nodes and leaves at once in one 64-bit sum
//   fill    a warp a node: its leaves, closed up
//
// Until the number is known, words lie in a table of all places for leaves: an eighth of the
// dense tensor's bytes.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/grid_build_entry.h"
#include "vdb/grid_counts.h"

namespace fl::vdb {
namespace {

constexpr int kSlabThreads = 1024;
constexpr int kThreads = 256;
constexpr int kWarpsPerBlock = kThreads / 32;

// Four voxels along z, as bits.
FL_D uint32_t read_voxels(const uint8_t* row, int count, bool aligned) {
  if (count >= 4 && aligned) return bits_of_bytes(*reinterpret_cast<const uint32_t*>(row));
  uint32_t bits = 0;
  for (int i = 0; i < count && i < 4; ++i) bits |= (row[i] != 0 ? 1u : 0u) << i;
  return bits;
}

FL_D void write_voxels(uint8_t* row, int count, bool aligned, uint32_t bits) {
  if (count >= 4 && aligned) {
    *reinterpret_cast<uint32_t*>(row) = bytes_of_bits(bits);
    return;
  }
  for (int i = 0; i < count && i < 4; ++i) row[i] = bits >> i & 1u;
}

// The leaf of a thread: slab b % 4 of top b / 4; threads that follow one another lie along z.
FL_D Place leaf_of_thread(const GridShape& shape) {
  Place place = top_place(shape, blockIdx.x / 4);
  place.x += static_cast<int>(blockIdx.x % 4) * kNodeEdge + threadIdx.x / 256 * kLeafEdge;
  place.y += static_cast<int>(threadIdx.x / 16 % 16) * kLeafEdge;
  place.z += static_cast<int>(threadIdx.x % 16) * kLeafEdge;
  return place;
}

// Its node in the slab, and its place in that node.
FL_D int node_of_thread() { return threadIdx.x / 64 % 4 * 4 + threadIdx.x / 4 % 4; }
FL_D int bit_of_thread() {
  return threadIdx.x / 256 * 16 + threadIdx.x / 16 % 4 * 4 + threadIdx.x % 4;
}

FL_D uint64_t read_leaf(const DenseVoxels& a, const Place& leaf) {
  const int* size = a.shape.resolution;
  const bool aligned = size[2] % 4 == 0 && reinterpret_cast<uintptr_t>(a.voxels) % 4 == 0;
  const int count = size[2] - leaf.z;
  uint64_t word = 0;
  FL_UNROLL
  for (int r = 0; r < 16; ++r) {
    const int x = leaf.x + r / 4, y = leaf.y + r % 4;
    if (x < size[0] && y < size[1] && count > 0)
      word |= static_cast<uint64_t>(
                  read_voxels(a.voxels + a.row(leaf.level, x, y) + leaf.z, count, aligned))
              << (4 * r);
  }
  return word;
}

FL_KERNEL FL_LAUNCH_BOUNDS(1024, 1)
    pack_kernel(DenseVoxels a, uint64_t* words, uint64_t* node_masks) {
  FL_SHARED(unsigned long long, masks, 16);
  if (threadIdx.x < 16) masks[threadIdx.x] = 0;
  __syncthreads();
  const uint64_t word = read_leaf(a, leaf_of_thread(a.shape));
  const int node = node_of_thread(), bit = bit_of_thread();
  const int64_t first_node = static_cast<int64_t>(blockIdx.x) * 16;
  words[(first_node + node) * 64 + bit] = word;
  if (word != 0) atomicOr(&masks[node], 1ull << bit);
  __syncthreads();
  if (threadIdx.x < 16) node_masks[first_node + threadIdx.x] = masks[threadIdx.x];
}

FL_KERNEL count_kernel(const uint64_t* node_masks, int64_t n, int64_t* counts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) counts[i] = count_node(node_masks[i]);
  if (i == n) counts[i] = 0;
}

FL_KERNEL fill_kernel(const uint64_t* words, const uint64_t* node_masks, const int64_t* starts,
                      int64_t n, Node* nodes, uint64_t* leaves) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  if (i >= n || node_masks[i] == 0) return;
  const uint64_t mask = node_masks[i];
  const int64_t first = leaves_in(starts[i]);
  if (threadIdx.x % 32 == 0) nodes[nodes_in(starts[i])] = {mask, first};
  for (int bit = threadIdx.x % 32; bit < 64; bit += 32)
    if (has_bit(mask, bit)) leaves[first + rank_below(mask, bit)] = words[i * 64 + bit];
}

FL_KERNEL tops_kernel(const uint64_t* node_masks, const int64_t* starts, int64_t n, Node* tops) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= n) return;
  uint64_t mask = 0;
  for (int bit = 0; bit < 64; ++bit)
    mask |= static_cast<uint64_t>(node_masks[t * 64 + bit] != 0) << bit;
  tops[t] = {mask, mask != 0 ? nodes_in(starts[t * 64]) : 0};
}

FL_KERNEL FL_LAUNCH_BOUNDS(1024, 1) unpack_kernel(Masks m, DenseVoxels a, uint8_t* dense) {
  const Place leaf = leaf_of_thread(a.shape);
  const int* size = m.resolution;
  if (leaf.x >= size[0] || leaf.y >= size[1] || leaf.z >= size[2]) return;
  const int64_t index = find_leaf(m, leaf.level, leaf.x, leaf.y, leaf.z);
  const uint64_t word = index >= 0 ? m.leaves[index] : 0;
  const bool aligned = size[2] % 4 == 0;
  FL_UNROLL
  for (int r = 0; r < 16; ++r) {
    const int x = leaf.x + r / 4, y = leaf.y + r % 4;
    if (x < size[0] && y < size[1])
      write_voxels(dense + a.row(leaf.level, x, y) + leaf.z, size[2] - leaf.z, aligned,
                   static_cast<uint32_t>(word >> (4 * r)) & 0xfu);
  }
}

struct CudaBuild {
  static MaskTensors build(const DenseVoxels& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n_tops = a.shape.tops(), n = n_tops * 64;
    const Scratch words(sizeof(uint64_t) * n * 64), node_masks(sizeof(uint64_t) * n);
    const Scratch counts(sizeof(int64_t) * (n + 1));
    uint64_t *word = words.data<uint64_t>(), *mask = node_masks.data<uint64_t>();
    int64_t* starts = counts.data<int64_t>();
    FL_LAUNCH(pack_kernel, n_tops * 4, kSlabThreads, 0, stream, a, word, mask);
    FL_LAUNCH(count_kernel, n / kThreads + 1, kThreads, 0, stream, mask, n, starts);
    exclusive_scan(starts, starts, n + 1, stream);
    PendingRead read(starts + n, sizeof(int64_t), stream);
    const Tensor tops = new_tops(like, a.shape);
    FL_LAUNCH(tops_kernel, (n_tops + kThreads - 1) / kThreads, kThreads, 0, stream, mask, starts,
              n_tops, output<Node>(tops));
    int64_t total = 0;
    read.wait(&total);
    const MaskTensors out = empty_children(like, tops, nodes_in(total), leaves_in(total));
    FL_LAUNCH(fill_kernel, (n + kWarpsPerBlock - 1) / kWarpsPerBlock, kThreads, 0, stream, word,
              mask, starts, n, output<Node>(std::get<1>(out)), output<uint64_t>(std::get<2>(out)));
    return out;
  }

  static void to_dense(const Masks& m, uint8_t* dense, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const DenseVoxels a{nullptr, shape_of(m)};
    FL_LAUNCH(unpack_kernel, a.shape.tops() * 4, kSlabThreads, 0,
              current_stream(like.get_device_index()), m, a, dense);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_build", TORCH_BOX(&vdb_build<CudaBuild>));
  m.impl("vdb_to_dense", TORCH_BOX(&vdb_to_dense<CudaBuild>));
}

}  // namespace fl::vdb
