// SPDX-License-Identifier: Apache-2.0
//
// The plane sweep as torch sees it: checks, outputs and types, with the work left to a Backend.
#pragma once

#include <vector>

#include "core/check.h"
#include "match/sweep.h"

namespace fl::match {

struct PackedImage {
  const uint32_t* texels;  // [height + 1, width]: the last row twice
  int width, height;
};

struct SweepArgs {
  const int16_t* reference;     // [height, width]
  const float* warps;           // [neighbours, 12]
  const float* inverse_depths;  // [planes]
  const uint8_t* prior;         // [prior_height, prior_width, planes] or null
  uint8_t* cost;                // [height, width, planes]
  int width, height, planes, neighbours, best;
  int prior_width, prior_height, prior_share;
  PackedImage images[kMaxNeighbours];
};

inline void check_grey(const Tensor& image, const char* op, const char* argument) {
  check_dtype(image, ScalarType::Short, op, argument);
  check_shape(image, {-1, -1}, op, argument);
  check_image_size(image.size(1), image.size(0), op);
}

inline void check_sweep(const Tensor& reference, const std::vector<Tensor>& neighbours,
                        const Tensor& warps, const Tensor& inverse_depths, int64_t best,
                        const std::optional<Tensor>& prior, double prior_weight) {
  const char* op = "match_plane_sweep";
  const int64_t n = static_cast<int64_t>(neighbours.size());
  check_grey(reference, op, "reference");
  STD_TORCH_CHECK(n >= 1 && n <= kMaxNeighbours, op, ": neighbours: expected 1 to ", kMaxNeighbours,
                  " images, got ", n);
  for (const Tensor& image : neighbours) {
    check_grey(image, op, "neighbours");
    check_same_device(image, reference, op, "neighbours");
  }
  check_shape(warps, {n, 3, 4}, op, "warps");
  check_dtype(warps, ScalarType::Float, op, "warps");
  check_same_device(warps, reference, op, "warps");
  check_shape(inverse_depths, {-1}, op, "inverse_depths");
  check_dtype(inverse_depths, ScalarType::Float, op, "inverse_depths");
  check_same_device(inverse_depths, reference, op, "inverse_depths");
  const int64_t planes = inverse_depths.size(0);
  STD_TORCH_CHECK(planes >= 3 && planes <= kMaxPlanes, op, ": inverse_depths: expected 3 to ",
                  kMaxPlanes, " planes, got ", planes);
  STD_TORCH_CHECK(best >= 1 && best <= kMaxBest && best <= n, op, ": best: expected 1 to ",
                  std::min<int64_t>(kMaxBest, n), ", got ", best);
  STD_TORCH_CHECK(prior_weight >= 0.0 && prior_weight <= 1.0, op,
                  ": prior_weight: expected 0 to 1, got ", prior_weight);
  if (prior.has_value()) {
    check_dtype(*prior, ScalarType::Byte, op, "prior");
    check_shape(*prior, {-1, -1, planes}, op, "prior");
    check_image_size(prior->size(1), prior->size(0), op);
    check_same_device(*prior, reference, op, "prior");
  }
}

template <typename Backend>
Tensor match_plane_sweep(Tensor reference, std::vector<Tensor> neighbours, Tensor warps,
                         Tensor inverse_depths, int64_t best, std::optional<Tensor> prior,
                         double prior_weight) {
  check_sweep(reference, neighbours, warps, inverse_depths, best, prior, prior_weight);
  dense_all(reference, warps, inverse_depths, prior);
  for (Tensor& image : neighbours) make_dense(image);
  const int64_t planes = inverse_depths.size(0);
  Tensor cost =
      new_empty(reference, {reference.size(0), reference.size(1), planes}, ScalarType::Byte);
  SweepArgs a{};
  a.reference = input<int16_t>(reference);
  a.warps = input<float>(warps);
  a.inverse_depths = input<float>(inverse_depths);
  a.prior = optional_input<uint8_t>(prior);
  a.cost = output<uint8_t>(cost);
  a.width = static_cast<int>(reference.size(1));
  a.height = static_cast<int>(reference.size(0));
  a.planes = static_cast<int>(planes);
  a.neighbours = static_cast<int>(neighbours.size());
  a.best = static_cast<int>(best);
  if (prior.has_value()) {
    a.prior_width = static_cast<int>(prior->size(1));
    a.prior_height = static_cast<int>(prior->size(0));
    a.prior_share = static_cast<int>(256.0 * prior_weight + 0.5);
  }
  Backend::run(a, neighbours, reference);
  return cost;
}

}  // namespace fl::match
