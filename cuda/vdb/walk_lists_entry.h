// SPDX-License-Identifier: Apache-2.0
//
// Traversal, segments and voxels as torch sees them: checks and outputs, the work left to a
// Backend.
#pragma once

#include "vdb/walk_entry.h"
#include "vdb/walk_lists.h"

namespace fl::vdb {

// Where the pieces of all rays go. Voxels and joins may be null.
struct PieceTarget {
  int64_t* ray_indices;
  float *begins, *ends;
  int32_t* voxels;
  uint8_t* joined;

  FL_HD void store(int64_t at, int64_t ray, const Piece& piece) const {
    ray_indices[at] = ray;
    begins[at] = piece.begin;
    ends[at] = piece.end;
    if (joined != nullptr) joined[at] = piece.what.x != 0;
    if (voxels == nullptr) return;
    voxels[3 * at] = piece.what.x;
    voxels[3 * at + 1] = piece.what.y;
    voxels[3 * at + 2] = piece.what.z;
  }
};

// The outputs of either operator, and how they are allocated once their number is known.
struct Pieces {
  Tensor ray_indices, begins, ends, extra, packed_info;
  bool voxels, joins;

  PieceTarget allocate(const Tensor& like, int64_t total) {
    ray_indices = new_empty(like, {total}, ScalarType::Long);
    begins = new_empty(like, {total}, ScalarType::Float);
    ends = new_empty(like, {total}, ScalarType::Float);
    extra = joins ? new_empty(like, {total}, ScalarType::Bool)
                  : new_empty(like, {voxels ? total : 0, 3}, ScalarType::Int);
    return {output<int64_t>(ray_indices), output<float>(begins), output<float>(ends),
            voxels ? output<int32_t>(extra) : nullptr,
            joins ? static_cast<uint8_t*>(extra.mutable_data_ptr()) : nullptr};
  }
};

// What a Backend runs over all rays: walk(ray, index, sink) hands over pieces.
struct Traverse {
  TraverseArgs args;
  float* terminate;  // [n]

  template <typename Sink>
  FL_HD void walk(const Ray& ray, int64_t i, Sink& sink) const {
    const float t = traverse_ray(args, ray, i, sink);
    if (terminate != nullptr) terminate[i] = t;
  }
  FL_HD bool good_grid() const { return are_boxes(args.grid.boxes, args.grid.masks.levels); }
};

template <bool kVoxels>
struct FindPieces {
  PieceArgs args;

  template <typename Sink>
  FL_HD void walk(const Ray& ray, int64_t, Sink& sink) const {
    pieces_of_ray<kVoxels>(args, ray, sink);
  }
  FL_HD bool good_grid() const { return true; }
};

using TraverseResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using PieceResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Backend>
TraverseResult vdb_traverse(Tensor binaries, Tensor boxes, Tensor origins, Tensor directions,
                            Tensor near, Tensor far, std::optional<Tensor> t_sorted,
                            std::optional<Tensor> t_indices, std::optional<Tensor> hits,
                            std::optional<Tensor> mask, double step, double cone_angle,
                            int64_t most, int64_t limit) {
  const char* op = "vdb_traverse";
  make_dense(binaries);
  TraverseArgs args{};
  args.grid = dense_grid(binaries, op);
  const int64_t levels = args.grid.masks.levels, n = origins.size(0);
  check_boxes(boxes, levels, binaries, op);
  check_rays(origins, directions, near, far, binaries, op);
  STD_TORCH_CHECK(limit >= 0 && most >= 0, op, ": limit: expected at least 0, got ", limit);
  args.sampling = checked_sampling(step > 0.0 ? step : 1.0, cone_angle, op);
  if (!(step > 0.0)) args.sampling.step = 0.0f;
  args.most = most;
  dense_all(boxes, origins, directions, near, far);
  make_dense(t_sorted), make_dense(t_indices), make_dense(hits), make_dense(mask);
  args.grid.boxes = input<float>(boxes);
  if (mask.has_value()) {
    check_dtype(*mask, ScalarType::Bool, op, "rays_mask");
    check_shape(*mask, {n}, op, "rays_mask");
    check_same_device(*mask, binaries, op, "rays_mask");
    args.mask = optional_input<uint8_t>(mask);
  }
  if (t_sorted.has_value()) {
    STD_TORCH_CHECK(t_indices.has_value() && hits.has_value(), op,
                    ": t_sorted: expected t_indices and hits with it");
    check_dtype(*t_sorted, ScalarType::Float, op, "t_sorted");
    check_shape(*t_sorted, {n, 2 * levels}, op, "t_sorted");
    check_same_device(*t_sorted, binaries, op, "t_sorted");
    check_dtype(*t_indices, ScalarType::Long, op, "t_indices");
    check_shape(*t_indices, {n, 2 * levels}, op, "t_indices");
    check_same_device(*t_indices, binaries, op, "t_indices");
    check_dtype(*hits, ScalarType::Bool, op, "hits");
    check_shape(*hits, {n, levels}, op, "hits");
    check_same_device(*hits, binaries, op, "hits");
    args.given = {optional_input<float>(t_sorted), optional_input<int64_t>(t_indices),
                  optional_input<uint8_t>(hits)};
  }
  Pieces out;
  out.voxels = false;
  out.joins = true;
  out.packed_info = new_empty(origins, {n, 2}, ScalarType::Long);
  const Tensor terminate = new_empty(origins, {n}, ScalarType::Float);
  Backend::run(Traverse{args, output<float>(terminate)}, ray_args(origins, directions, near, far),
               limit, origins, out, op);
  return {out.ray_indices, out.begins, out.ends, out.extra, out.packed_info, terminate};
}

template <typename Backend>
PieceResult vdb_pieces(Tensor tops, Tensor nodes, Tensor leaves, std::vector<int64_t> resolution,
                       Tensor origins, Tensor directions, Tensor near, Tensor far, bool voxels,
                       int64_t limit) {
  const char* op = "vdb_pieces";
  dense_all(tops, nodes, leaves);
  const Masks masks = masks_of(tops, nodes, leaves, resolution, op);
  STD_TORCH_CHECK(masks.levels == 1, op, ": tops: expected 1 level, got ", masks.levels);
  check_rays(origins, directions, near, far, tops, op);
  STD_TORCH_CHECK(limit >= 0, op, ": limit: expected at least 0, got ", limit);
  dense_all(origins, directions, near, far);
  Pieces out;
  out.voxels = voxels;
  out.joins = false;
  out.packed_info = new_empty(origins, {origins.size(0), 2}, ScalarType::Long);
  const RayArgs rays = ray_args(origins, directions, near, far);
  const PieceArgs args{masks, voxels};
  if (voxels)
    Backend::run(FindPieces<true>{args}, rays, limit, origins, out, op);
  else
    Backend::run(FindPieces<false>{args}, rays, limit, origins, out, op);
  return {out.ray_indices, out.begins, out.ends, out.extra, out.packed_info};
}

}  // namespace fl::vdb
