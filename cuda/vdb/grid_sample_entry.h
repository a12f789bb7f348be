// SPDX-License-Identifier: Apache-2.0
//
// Sampling as torch sees it: checks and outputs, with the work left to a Backend.
#pragma once

#include "vdb/grid_entry.h"
#include "vdb/grid_sample.h"

namespace fl::vdb {

struct SampleInput {
  MaskInput in;
  Tensor leaf_offsets, values, points, background;

  SampleInput(const MaskInput& masks, Tensor offsets, Tensor values_in, Tensor points_in,
              Tensor background_in, int64_t level, const char* op)
      : in(masks),
        leaf_offsets(offsets),
        values(values_in),
        points(points_in),
        background(background_in) {
    check_dtype(leaf_offsets, ScalarType::Long, op, "leaf_offsets");
    check_shape(leaf_offsets, {in.n_leaves + 1}, op, "leaf_offsets");
    check_same_device(leaf_offsets, in.tops, op, "leaf_offsets");
    check_float(values, op, "values");
    check_shape(values, {-1, -1}, op, "values");
    check_same_device(values, in.tops, op, "values");
    check_shape(points, {-1, 3}, op, "points");
    check_dtype(points, values.scalar_type(), op, "points");
    check_same_device(points, in.tops, op, "points");
    check_shape(background, {values.size(1)}, op, "background");
    check_dtype(background, values.scalar_type(), op, "background");
    check_same_device(background, in.tops, op, "background");
    STD_TORCH_CHECK(level >= 0 && level < in.masks.levels, op, ": level: expected 0 to ",
                    in.masks.levels - 1, ", got ", level);
    dense_all(leaf_offsets, values, points, background);
  }

  template <typename T>
  SampleArgs<T> args(int64_t level) const {
    return {in.masks,
            input<int64_t>(leaf_offsets),
            input<T>(values),
            input<T>(points),
            input<T>(background),
            points.size(0),
            values.size(0),
            values.size(1),
            static_cast<int>(level)};
  }
};

template <typename Backend>
Tensor vdb_sample(Tensor tops, Tensor nodes, Tensor leaves, Sizes resolution, Tensor leaf_offsets,
                  Tensor values, Tensor points, Tensor background, int64_t level) {
  const char* op = "vdb_sample";
  const SampleInput in(MaskInput(tops, nodes, leaves, resolution, op), leaf_offsets, values, points,
                       background, level, op);
  Tensor out = new_empty(in.values, {in.points.size(0), in.values.size(1)});
  dispatch_float(in.values, [&](auto t) {
    using T = decltype(t);
    Backend::forward(in.args<T>(level), output<T>(out), in.values);
  });
  return out;
}

// Gradients of what was asked for; a tensor of no elements for what was not.
template <typename Backend>
std::tuple<Tensor, Tensor> vdb_sample_backward(Tensor tops, Tensor nodes, Tensor leaves,
                                               Sizes resolution, Tensor leaf_offsets, Tensor values,
                                               Tensor points, Tensor background, int64_t level,
                                               Tensor gradient, bool needs_values,
                                               bool needs_points) {
  const char* op = "vdb_sample_backward";
  const SampleInput in(MaskInput(tops, nodes, leaves, resolution, op), leaf_offsets, values, points,
                       background, level, op);
  check_shape(gradient, {in.points.size(0), in.values.size(1)}, op, "gradient");
  check_dtype(gradient, in.values.scalar_type(), op, "gradient");
  check_same_device(gradient, in.values, op, "gradient");
  make_dense(gradient);
  const int64_t n_values = needs_values ? in.values.size(0) : 0;
  Tensor g_values = new_empty(in.values, {n_values, in.values.size(1)});
  Tensor g_points = new_empty(in.values, {needs_points ? in.points.size(0) : 0, 3});
  dispatch_float(in.values, [&](auto t) {
    using T = decltype(t);
    const SampleArgs<T> a = in.args<T>(level);
    if (needs_points) Backend::points(a, input<T>(gradient), output<T>(g_points), in.values);
    if (needs_values) Backend::values(a, input<T>(gradient), output<T>(g_values), in.values);
  });
  return {g_values, g_points};
}

// How many bits an index of a value needs, that of no value included.
inline int value_bits(int64_t n_values) {
  int bits = 1;
  while ((int64_t{1} << bits) <= n_values) ++bits;
  return bits;
}

}  // namespace fl::vdb
