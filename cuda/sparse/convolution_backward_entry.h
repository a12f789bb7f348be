// SPDX-License-Identifier: Apache-2.0
//
// The gradients of convolution as torch sees them, both in one call: that of the features is a
// convolution of the gradient along the reverse map with the weight turned; that of the weight adds
// up outer products over the map's pairs. Both are linear in the gradient and in the other factor,
// so that their own gradients are made of the same two operators.
#pragma once

#include <tuple>

#include "sparse/convolution_entry.h"

namespace fl::sparse {

struct WeightGradientInput {
  Tensor features, gradient;
  MapInput map;
  int64_t n_in, n_out, channels_in, channels_out, groups;
  bool allow_tf32;

  WeightGradientInput(Tensor features_in, Tensor gradient_in, int64_t groups_in, bool allow_tf32_in,
                      const MapInput& map_in)
      : features(features_in),
        gradient(gradient_in),
        map(map_in),
        groups(groups_in),
        allow_tf32(allow_tf32_in) {
    const char* op = "sparse_conv_backward";
    check_element(features, op, "features");
    check_shape(features, {-1, -1}, op, "features");
    check_shape(gradient, {-1, -1}, op, "gradient");
    check_dtype(gradient, features.scalar_type(), op, "gradient");
    check_same_device(gradient, features, op, "gradient");
    n_in = features.size(0), n_out = gradient.size(0);
    channels_in = features.size(1), channels_out = gradient.size(1);
    check_row_count(n_in, op, "features");
    check_row_count(n_out, op, "gradient");
    STD_TORCH_CHECK(groups > 0 && channels_in % groups == 0 && channels_out % groups == 0, op,
                    ": groups: expected a divisor of ", channels_in, " and ", channels_out,
                    " channels, got ", groups);
    dense_all(features, gradient);
  }
};

// The weight of the reverse convolution: in each tap, each group's matrix transposed,
//   out[t][c][g * own_in + k] = weight[t][k][g * own_out + c],
// and in a symmetric map, whose lists are their own reverse, the taps from the last to the first.
struct WeightTurn {
  int64_t n_taps, own_in, own_out, groups;
  bool reverses_taps;

  int64_t matrices() const { return n_taps * groups; }
  // Where matrix m begins in the weight and in the output. Matrices count group by group in a tap.
  FL_HD int64_t source(int64_t m) const {
    const int64_t tap = reverses_taps ? n_taps - 1 - m / groups : m / groups;
    return (tap * own_in * groups + m % groups) * own_out;
  }
  FL_HD int64_t target(int64_t m) const {
    return (m / groups * own_out * groups + m % groups) * own_in;
  }
  FL_HD int64_t source_stride() const { return groups * own_out; }
  FL_HD int64_t target_stride() const { return groups * own_in; }
};

template <typename Backend>
Tensor turned_weight(Tensor weight, int64_t groups, bool reverses_taps) {
  const char* op = "sparse_conv_backward";
  check_element(weight, op, "weight");
  check_shape(weight, {-1, -1, -1}, op, "weight");
  STD_TORCH_CHECK(groups > 0 && weight.size(2) % groups == 0, op,
                  ": groups: expected a divisor of ", weight.size(2), " channels, got ", groups);
  make_dense(weight);
  const WeightTurn turn{weight.size(0), weight.size(1), weight.size(2) / groups, groups,
                        reverses_taps};
  const Tensor out = new_empty(weight, {turn.n_taps, turn.own_out, groups * turn.own_in});
  if (out.numel() > 0) Backend::turn(turn, weight, out);
  return out;
}

// Asked for is the gradient of that factor whose other one is given: of the features if there is
// the weight, of the weight if there are the features. The other result has no elements. A wide
// weight's gradient comes in the type that it is added up in.
template <typename Backend>
std::tuple<Tensor, Tensor> sparse_conv_backward(
    Tensor gradient, std::optional<Tensor> features, std::optional<Tensor> weight, int64_t n_in,
    int64_t groups, bool wide_weight, bool allow_tf32, Tensor in_rows, Tensor out_rows,
    Tensor starts, Tensor table, Tensor order, Tensor tile_masks,
    std::optional<Tensor> reverse_in_rows, std::optional<Tensor> reverse_out_rows,
    std::optional<Tensor> reverse_starts, std::optional<Tensor> reverse_table,
    std::optional<Tensor> reverse_order, std::optional<Tensor> reverse_tile_masks, bool symmetric) {
  const char* op = "sparse_conv_backward";
  const MapInput map(in_rows, out_rows, starts, table, gradient, op);
  make_dense(gradient);
  std::optional<Tensor> g_features, g_weight;
  if (weight.has_value()) {
    STD_TORCH_CHECK(symmetric || (reverse_in_rows && reverse_out_rows && reverse_starts &&
                                  reverse_table && reverse_order && reverse_tile_masks),
                    op, ": reverse_table: expected all forms of the reverse map, or symmetric");
    const MapInput reverse = symmetric ? map
                                       : MapInput(*reverse_in_rows, *reverse_out_rows,
                                                  *reverse_starts, *reverse_table, gradient, op);
    g_features = convolve<Backend>(
        {gradient, turned_weight<Backend>(*weight, groups, symmetric), std::nullopt, std::nullopt,
         static_cast<int64_t>(Activation::none), 0.0, allow_tf32, n_in, reverse,
         symmetric ? order : *reverse_order, symmetric ? tile_masks : *reverse_tile_masks});
  }
  if (features.has_value()) {
    const WeightGradientInput in(*features, gradient, groups, allow_tf32, map);
    g_weight = new_empty(in.features, {map.n_taps, in.channels_in / groups, in.channels_out},
                         wide_weight ? sum_dtype(in.features) : in.features.scalar_type());
    if (g_weight->numel() > 0) Backend::weight_gradient(in, *g_weight);
  }
  const auto or_nothing = [&](const std::optional<Tensor>& found) {
    return found.has_value() ? *found : new_empty(gradient, {0});
  };
  return {or_nothing(g_features), or_nothing(g_weight)};
}

}  // namespace fl::sparse
