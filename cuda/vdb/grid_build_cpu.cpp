// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of building from a dense tensor, in one pass over it, and of writing one.
#include <memory>

#include "core/registration.h"
#include "vdb/grid_assemble_cpu.h"
#include "vdb/grid_build_entry.h"
#include "vdb/grid_build_simd.h"

namespace fl::vdb {
namespace {

// The leaves of one node, out of the columns of its top.
uint64_t gather_node(const PackedTop& top, int node, uint64_t* out) {
  uint64_t mask = 0;
  int count = 0;
  for (int i = 0; i < 16; ++i) {
    const int column = (bit_x(node) * 4 + i / 4) * 16 + bit_y(node) * 4 + i % 4;
    if (top.occupied[column] == 0) continue;
    for (int k = 0; k < 4; ++k) {
      const uint64_t word = top.words[column][bit_z(node) * 4 + k];
      if (word == 0) continue;
      mask |= uint64_t{1} << (4 * i + k);
      out[count++] = word;
    }
  }
  return mask;
}

// Which nodes have a column that holds a voxel.
uint64_t occupied_nodes(const PackedTop& top) {
  uint64_t nodes = 0;
  for (int column = 0; column < 256; ++column)
    if (top.occupied[column] != 0)
      nodes |= uint64_t{0xf} << (column / 64 * 16 + column % 16 / 4 * 4);
  return nodes;
}

PackArgs pack_args(const DenseVoxels& a, const Place& place, int tops) {
  const int* resolution = a.shape.resolution;
  return {a.voxels + a.row(place.level, place.x, place.y) + place.z,
          static_cast<int64_t>(resolution[1]) * resolution[2],
          resolution[2],
          {std::min(kTopEdge, resolution[0] - place.x), std::min(kTopEdge, resolution[1] - place.y),
           std::min(kTopEdge * tops, resolution[2] - place.z)}};
}

// Units of a few tops along z: each row of voxels is then read as far as it goes.
struct Units {
  GridShape shape;
  int64_t per_row;

  explicit Units(const GridShape& s)
      : shape(s), per_row((s.top_count[2] + kPackedTops - 1) / kPackedTops) {}
  int64_t count() const { return shape.tops() / shape.top_count[2] * per_row; }
  int64_t start(int64_t u) const {
    return u / per_row * shape.top_count[2] + u % per_row * kPackedTops;
  }
};

MaskTensors build(const DenseVoxels& a, const Tensor& like) {
  const Units units(a.shape);
  std::vector<std::unique_ptr<PackedTop[]>> packed(thread_count());
  const auto pack = [&](int64_t u, int64_t worker, Run& run) {
    if (!packed[worker]) packed[worker].reset(new PackedTop[kPackedTops]);
    const int64_t first = units.start(u);
    const int tops = static_cast<int>(units.start(u + 1) - first);
    FL_ISA_SELECT(pack_tops)
    (pack_args(a, top_place(a.shape, first), tops), packed[worker].get());
    for (int t = 0; t < tops; ++t) {
      const PackedTop& top = packed[worker][t];
      run.add_top(first + t, occupied_nodes(top),
                  [&](int bit, uint64_t* out) { return gather_node(top, bit, out); });
    }
  };
  return assemble(like, a.shape, units.count(), [&](int64_t u) { return units.start(u); }, pack);
}

void write_leaf(const DenseVoxels& a, uint8_t* dense, const Place& leaf, uint64_t word) {
  const int width = std::min(kLeafEdge, a.shape.resolution[2] - leaf.z);
  for (int r = 0; r < 16; ++r) {
    const int x = leaf.x + r / 4, y = leaf.y + r % 4;
    const uint32_t bytes = bytes_of_bits(static_cast<uint32_t>(word >> (4 * r)));
    if (bytes != 0 && x < a.shape.resolution[0] && y < a.shape.resolution[1] && width > 0)
      std::memcpy(dense + a.row(leaf.level, x, y) + leaf.z, &bytes, width);
  }
}

void to_dense(const Masks& m, uint8_t* dense) {
  const DenseVoxels a{nullptr, shape_of(m)};
  const int64_t rows = static_cast<int64_t>(m.levels) * m.resolution[0];
  const int64_t row = a.row(0, 1, 0);
  parallel_for(0, rows, std::max<int64_t>(1, (1 << 20) / row), [&](int64_t begin, int64_t end) {
    std::memset(dense + begin * row, 0, (end - begin) * row);
  });
  parallel_for(0, a.shape.tops(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const Place place = top_place(a.shape, t);
      for_leaves(m, t, place, [&](const Place& leaf, int64_t index) {
        write_leaf(a, dense, leaf, m.leaves[index]);
      });
    }
  });
}

struct CpuBuild {
  static MaskTensors build(const DenseVoxels& a, const Tensor& like) { return vdb::build(a, like); }
  static void to_dense(const Masks& m, uint8_t* dense, const Tensor&) { vdb::to_dense(m, dense); }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_build", TORCH_BOX(&vdb_build<CpuBuild>));
  m.impl("vdb_to_dense", TORCH_BOX(&vdb_to_dense<CpuBuild>));
}

}  // namespace fl::vdb
