// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of traversal, segments and voxels: threads over groups of rays, each keeping what
// its rays meet; when all are counted the outputs are allocated and the pieces put in place.
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "vdb/walk_lists_entry.h"
#include "vdb/walk_small_cpu.h"

namespace fl::vdb {
namespace {

constexpr int64_t kGroup = kRaysAtOnce;

struct KeepingSink {
  std::vector<Piece> pieces;
  GroupParts parts;
  int64_t of_ray = 0, limit = 0;

  bool push(const Piece& piece) {
    pieces.push_back(piece);
    return ++of_ray <= limit;
  }
};

struct Group {
  int64_t worker, first, count, bad;
};

// Only occupied segments have a walk of many rays at once.
template <typename Work>
SmallGrid small_grid(const Work&, int64_t) {
  return {};
}
SmallGrid small_grid(const FindPieces<false>& work, int64_t rays) {
  WalkGrid grid{};
  grid.masks = work.args.masks;
  float box[6] = {};
  for (int a = 0; a < 3; ++a) box[3 + a] = static_cast<float>(grid.masks.resolution[a]);
  return {grid, box, rays};
}

struct CpuPieces {
  template <typename Work>
  static void run(const Work& work, const RayArgs& rays, int64_t limit, const Tensor& like,
                  Pieces& out, const char* op) {
    const int64_t n = rays.count, n_groups = (n + kGroup - 1) / kGroup;
    check_good(work.good_grid() ? kAllGood : n, n, op);
    std::vector<KeepingSink> sinks(thread_count());
    for (KeepingSink& sink : sinks) sink.limit = limit;
    std::vector<Group> groups(n_groups);
    int64_t* packed = output<int64_t>(out.packed_info);
    const SmallGrid small = small_grid(work, n);
    parallel_dynamic(n_groups, [&](int64_t g, int64_t w) {
      const int64_t begin = g * kGroup, end = std::min(n, begin + kGroup);
      groups[g] = small.empty() ? walk_group(work, rays, begin, end, sinks[w], packed)
                                : walk_cells(small.grid, rays, begin, end, sinks[w], packed);
      groups[g].worker = w;
    });
    int64_t total = 0, bad = kAllGood;
    std::vector<int64_t> firsts;
    for (const Group& group : groups) {
      firsts.push_back(total);
      bad = std::min(bad, group.bad);
      total += group.count;
    }
    check_good(bad, n, op);
    check_limit(total, limit, op);
    const PieceTarget target = out.allocate(like, total);
    parallel_for(0, n_groups, 1, [&](int64_t first_group, int64_t last_group) {
      for (int64_t g = first_group; g < last_group; ++g) {
        const Piece* piece = sinks[groups[g].worker].pieces.data() + groups[g].first;
        int64_t at = firsts[g];
        for (int64_t i = g * kGroup; i < std::min(n, (g + 1) * kGroup); ++i) {
          packed[2 * i] = at;
          for (int64_t end = at + packed[2 * i + 1]; at < end; ++at) target.store(at, i, *piece++);
        }
      }
    });
  }

  template <typename Work>
  static Group walk_group(const Work& work, const RayArgs& rays, int64_t begin, int64_t end,
                          KeepingSink& sink, int64_t* packed) {
    Group group{0, static_cast<int64_t>(sink.pieces.size()), 0, kAllGood};
    for (int64_t i = begin; i < end; ++i) {
      sink.of_ray = 0;
      if (rays.good(i))
        work.walk(rays.at(i), i, sink);
      else
        group.bad = std::min(group.bad, i);
      packed[2 * i + 1] = sink.of_ray;
      group.count += sink.of_ray;
    }
    return group;
  }

  static Group walk_cells(const CellGrid& grid, const RayArgs& rays, int64_t begin, int64_t end,
                          KeepingSink& sink, int64_t* packed) {
    const int64_t bad =
        FL_ISA_SELECT(find_parts_in_index_space)(grid, rays, begin, end, sink.parts.target(grid));
    Group group{0, static_cast<int64_t>(sink.pieces.size()), 0, bad < end ? bad : kAllGood};
    for (int64_t i = begin; i < end; ++i) {
      sink.of_ray = 0;
      const auto [parts, count] = sink.parts.of_ray(i - begin);
      for (int k = 0; k < count; ++k)
        if (parts[k].end > parts[k].begin && !sink.push({parts[k].begin, parts[k].end, {0, 0, 0}}))
          break;
      packed[2 * i + 1] = sink.of_ray;
      group.count += sink.of_ray;
    }
    return group;
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_traverse", TORCH_BOX(&vdb_traverse<CpuPieces>));
  m.impl("vdb_pieces", TORCH_BOX(&vdb_pieces<CpuPieces>));
}

}  // namespace fl::vdb
