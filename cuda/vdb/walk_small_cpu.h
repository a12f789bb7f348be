// SPDX-License-Identifier: Apache-2.0
//
// Small grids on the CPU: one bit a cell, so that the SIMD kernel of walk_cells_simd.cpp walks many
// rays at once through every cell of their way, which beats skipping as long as the bits stay in
// the cache. What it finds of a group of rays are their occupied parts.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "core/parallel.h"
#include "vdb/walk_simd.h"

namespace fl::vdb {

// One level's bits; empty where the grid is too large, or the rays too few to be worth them.
class SmallGrid {
 public:
  CellGrid grid{};

  SmallGrid() = default;
  // `box` has six numbers.
  SmallGrid(const WalkGrid& of, const float* box, int64_t rays) {
    const Masks& m = of.masks;
    int64_t along = 0;
    for (int k = 0; k < 3; ++k) {
      if (m.resolution[k] > kMostCells) return;
      grid.resolution[k] = m.resolution[k];
      along += m.resolution[k];
    }
    std::copy_n(box, 6, grid.box);
    grid.row = up_to(m.resolution[2], 32);
    grid.slice = grid.row * up_to(m.resolution[1], kLeafEdge);
    const int64_t words = int64_t{up_to(m.resolution[0], kLeafEdge)} * grid.slice / 32;
    // Over a dense table there is nothing to skip; beyond the cache, masks are left to skip.
    if (of.cells == nullptr && words > most_words()) return;
    if (rays * along < kStepsPerWord * words) return;
    words_.reset(new uint32_t[words]);
    grid.bits = words_.get();
    if (of.cells != nullptr) {
      parallel_for(0, m.resolution[0], 8, [&](int64_t first, int64_t last) {
        FL_ISA_SELECT(pack_cells)(of.cells, grid, first, last, words_.get());
      });
    } else {
      std::fill_n(words_.get(), words, 0u);
      add_masks(m);
    }
  }
  bool empty() const { return grid.bits == nullptr; }

 private:
  static constexpr int64_t kStepsPerWord = 2;

  static int up_to(int n, int edge) { return (n + edge - 1) / edge * edge; }

  // Measured: 256^3 cells, where lanes have gathers, and 128^3 else.
  static int64_t most_words() { return int64_t{1} << (isa() >= Isa::avx2 ? 19 : 16); }

  void add_masks(const Masks& m) {
    const Node* top = m.tops;
    for (int x = 0; x < m.top_count[0]; ++x)
      for (int y = 0; y < m.top_count[1]; ++y)
        for (int z = 0; z < m.top_count[2]; ++z, ++top)
          for_children(*top, {x, y, z}, [&](int64_t node, const Voxel& n) {
            for_children(m.nodes[node], n,
                         [&](int64_t leaf, const Voxel& l) { add_leaf(m.leaves[leaf], l); });
          });
  }
  template <typename F>
  static void for_children(const Node& node, const Voxel& at, const F& f) {
    int64_t child = node.first;
    for (uint64_t mask = node.mask; mask != 0; mask &= mask - 1) {
      const int bit = __builtin_ctzll(mask);
      f(child++, Voxel{4 * at.x + (bit >> 4), 4 * at.y + (bit >> 2 & 3), 4 * at.z + (bit & 3)});
    }
  }
  void add_leaf(uint64_t leaf, const Voxel& at) {
    const int64_t first = int64_t{kLeafEdge} * at.x * grid.slice +
                          int64_t{kLeafEdge} * at.y * grid.row + kLeafEdge * at.z;
    for (int x = 0; x < kLeafEdge; ++x)
      for (int y = 0; y < kLeafEdge; ++y, leaf >>= 4)
        words_[(first + x * grid.slice + y * grid.row) >> 5] |= static_cast<uint32_t>(leaf & 15)
                                                                << (first & 31);
  }

  std::unique_ptr<uint32_t[]> words_;
};

// The parts of one group of rays, in memory that a worker keeps.
class GroupParts {
 public:
  PartTarget target(const CellGrid& grid) {
    stride_ = most_parts(grid.resolution);
    if (parts_ == nullptr) parts_.reset(new Part[kRaysAtOnce * stride_]);
    return {parts_.get(), counts_, stride_};
  }
  std::pair<const Part*, int> of_ray(int64_t ray) const {
    return {parts_.get() + ray * stride_, counts_[ray]};
  }

 private:
  std::unique_ptr<Part[]> parts_;
  int32_t counts_[kRaysAtOnce];
  int64_t stride_ = 0;
};

}  // namespace fl::vdb
