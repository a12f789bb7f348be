// SPDX-License-Identifier: Apache-2.0
//
// Sampling and spans as torch sees them: checks and outputs, with the work left to a Backend.
#pragma once

#include <limits>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "vdb/walk_runs.h"

namespace fl::vdb {

struct RaySampleArgs {
  WalkGrid grid;
  RayArgs rays;
  RaySampling sampling;
  int64_t limit;
  bool exact;
};

// A ray that cannot be walked is reported, not walked: its index, the boxes after the rays.
constexpr int64_t kAllGood = std::numeric_limits<int64_t>::max();

FL_HD bool are_boxes(const float* boxes, int levels) {
  bool good = true;
  for (int level = 0; level < levels; ++level)
    for (int a = 0; a < 3; ++a) {
      const float low = boxes[6 * level + a], high = boxes[6 * level + 3 + a];
      good = good && size_of(low) < kLargestInput && size_of(high) < kLargestInput && low < high;
    }
  return good;
}

inline void check_good(int64_t first_bad, int64_t n_rays, const char* op) {
  STD_TORCH_CHECK(first_bad != n_rays, op,
                  ": aabbs: expected finite boxes, min below max, each below 1e18");
  STD_TORCH_CHECK(first_bad == kAllGood, op, ": rays_o, rays_d, near, far: ray ", first_bad,
                  ": expected finite numbers below 1e18 and a direction that is not zero");
}

inline void check_limit(int64_t total, int64_t limit, const char* op) {
  STD_TORCH_CHECK(total <= limit, op, ": expected at most ", limit, " samples (limit), got ", total,
                  " or more; take larger steps, fewer rays, or raise the limit");
}

inline void check_rays(const Tensor& origins, const Tensor& directions, const Tensor& near,
                       const Tensor& far, const Tensor& like, const char* op) {
  check_dtype(origins, ScalarType::Float, op, "rays_o");
  check_shape(origins, {-1, 3}, op, "rays_o");
  check_same_device(origins, like, op, "rays_o");
  const int64_t n = origins.size(0);
  check_dtype(directions, ScalarType::Float, op, "rays_d");
  check_shape(directions, {n, 3}, op, "rays_d");
  check_same_device(directions, like, op, "rays_d");
  check_dtype(near, ScalarType::Float, op, "near");
  check_shape(near, {n}, op, "near");
  check_same_device(near, like, op, "near");
  check_dtype(far, ScalarType::Float, op, "far");
  check_shape(far, {n}, op, "far");
  check_same_device(far, like, op, "far");
}

inline void check_boxes(const Tensor& boxes, int64_t levels, const Tensor& like, const char* op) {
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels, op, ": expected 1 to ", kMaxLevels,
                  " levels, got ", levels);
  check_dtype(boxes, ScalarType::Float, op, "aabbs");
  check_shape(boxes, {levels, 6}, op, "aabbs");
  check_same_device(boxes, like, op, "aabbs");
}

inline RayArgs ray_args(const Tensor& origins, const Tensor& directions, const Tensor& near,
                        const Tensor& far) {
  return {input<float>(origins), input<float>(directions), input<float>(near), input<float>(far),
          origins.size(0)};
}

// `resolution` has three numbers. The pointers are trusted to be those of a well-formed grid.
inline Masks masks_of(const Tensor& tops, const Tensor& nodes, const Tensor& leaves,
                      const std::vector<int64_t>& resolution, const char* op) {
  STD_TORCH_CHECK(resolution.size() == 3, op, ": resolution: expected 3 numbers, got ",
                  resolution.size());
  Masks m;
  for (int a = 0; a < 3; ++a) {
    STD_TORCH_CHECK(resolution[a] >= 1 && resolution[a] < kMirror, op,
                    ": resolution: expected 1 to 2^30 voxels, got ", resolution[a]);
    m.resolution[a] = static_cast<int>(resolution[a]);
    m.top_count[a] = (m.resolution[a] + kTopEdge - 1) / kTopEdge;
  }
  check_dtype(tops, ScalarType::Long, op, "tops");
  check_shape(tops, {-1, m.top_count[0], m.top_count[1], m.top_count[2], 2}, op, "tops");
  check_dtype(nodes, ScalarType::Long, op, "nodes");
  check_shape(nodes, {-1, 2}, op, "nodes");
  check_same_device(nodes, tops, op, "nodes");
  check_dtype(leaves, ScalarType::Long, op, "leaves");
  check_shape(leaves, {-1}, op, "leaves");
  check_same_device(leaves, tops, op, "leaves");
  m.levels = static_cast<int>(tops.size(0));
  m.tops = reinterpret_cast<const Node*>(input<int64_t>(tops));
  m.nodes = reinterpret_cast<const Node*>(input<int64_t>(nodes));
  m.leaves = reinterpret_cast<const uint64_t*>(input<int64_t>(leaves));
  return m;
}

// A dense table [levels, X, Y, Z] of bool, in place of masks.
inline WalkGrid dense_grid(const Tensor& binaries, const char* op) {
  check_dtype(binaries, ScalarType::Bool, op, "binaries");
  check_shape(binaries, {-1, -1, -1, -1}, op, "binaries");
  WalkGrid grid{};
  grid.masks.levels = static_cast<int>(lesser(static_cast<int>(binaries.size(0)), 1 << 20));
  for (int a = 0; a < 3; ++a) {
    STD_TORCH_CHECK(binaries.size(a + 1) >= 1 && binaries.size(a + 1) < kMirror, op,
                    ": binaries: expected 1 to 2^30 voxels an axis, got ", binaries.size(a + 1));
    grid.masks.resolution[a] = static_cast<int>(binaries.size(a + 1));
  }
  grid.cells = static_cast<const uint8_t*>(binaries.const_data_ptr());
  return grid;
}

inline RaySampling checked_sampling(double step, double cone_angle, const char* op) {
  STD_TORCH_CHECK(step >= 1e-12 && step <= 1e10, op,
                  ": step: expected a length from 1e-12 to 1e10, got ", step);
  STD_TORCH_CHECK(cone_angle >= 0.0 && cone_angle <= 1e3, op,
                  ": cone_angle: expected a number from 0 to 1000, got ", cone_angle);
  return {static_cast<float>(step), static_cast<float>(cone_angle)};
}

// What every ray gave: `packed_info` is (first sample, number of samples) of each ray.
struct Samples {
  Tensor ray_indices, t_starts, t_ends, packed_info;

  void allocate(const Tensor& like, int64_t total) {
    ray_indices = new_empty(like, {total}, ScalarType::Long);
    t_starts = new_empty(like, {total}, ScalarType::Float);
    t_ends = new_empty(like, {total}, ScalarType::Float);
  }
};

using RaySampleResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename Backend>
RaySampleResult sample(WalkGrid grid, Tensor boxes, Tensor origins, Tensor directions, Tensor near,
                       Tensor far, double step, double cone_angle, bool exact, int64_t limit,
                       const Tensor& like, const char* op) {
  check_boxes(boxes, grid.masks.levels, like, op);
  check_rays(origins, directions, near, far, like, op);
  STD_TORCH_CHECK(limit >= 0, op, ": limit: expected at least 0, got ", limit);
  const RaySampling sampling = checked_sampling(step, cone_angle, op);
  dense_all(boxes, origins, directions, near, far);
  grid.boxes = input<float>(boxes);
  Samples out;
  out.packed_info = new_empty(like, {origins.size(0), 2}, ScalarType::Long);
  Backend::run(
      RaySampleArgs{grid, ray_args(origins, directions, near, far), sampling, limit, exact},
      origins, out, op);
  return {out.ray_indices, out.t_starts, out.t_ends, out.packed_info};
}

template <typename Backend>
RaySampleResult vdb_ray_samples(Tensor tops, Tensor nodes, Tensor leaves,
                                std::vector<int64_t> resolution, Tensor boxes, Tensor origins,
                                Tensor directions, Tensor near, Tensor far, double step,
                                double cone_angle, bool exact, int64_t limit) {
  const char* op = "vdb_ray_samples";
  dense_all(tops, nodes, leaves);
  WalkGrid grid{};
  grid.masks = masks_of(tops, nodes, leaves, resolution, op);
  return sample<Backend>(grid, boxes, origins, directions, near, far, step, cone_angle, exact,
                         limit, tops, op);
}

template <typename Backend>
RaySampleResult vdb_ray_samples_dense(Tensor binaries, Tensor boxes, Tensor origins,
                                      Tensor directions, Tensor near, Tensor far, double step,
                                      double cone_angle, int64_t limit) {
  const char* op = "vdb_ray_samples_dense";
  make_dense(binaries);
  return sample<Backend>(dense_grid(binaries, op), boxes, origins, directions, near, far, step,
                         cone_angle, true, limit, binaries, op);
}

}  // namespace fl::vdb
