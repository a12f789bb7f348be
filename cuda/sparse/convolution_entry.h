// SPDX-License-Identifier: Apache-2.0
//
// Convolution as torch sees it: checks and outputs, with the work left to a Backend.
//
// A kernel map comes in several forms, of which a backend reads one; the others are tensors without
// elements. Pairs: in_rows and out_rows, tap by tap, those of tap t from starts[t] on; within a tap
// out_rows ascend. Table: the input row of every tap and output row, or -1.
#pragma once

#include "sparse/convolution.h"
#include "sparse/element_entry.h"

namespace fl::sparse {

// Row numbers are int32, and so are extents.
inline void check_row_count(int64_t rows, const char* op, const char* argument) {
  STD_TORCH_CHECK(rows >= 0 && rows < (int64_t{1} << 31), op, ": ", argument,
                  ": expected 0 to 2^31 - 1 rows, got ", rows);
}

struct MapInput {
  Tensor in_rows, out_rows, starts, table;
  int64_t n_taps = 0;

  MapInput(Tensor in, Tensor out, Tensor starts_in, Tensor table_in, const Tensor& like,
           const char* op)
      : in_rows(in), out_rows(out), starts(starts_in), table(table_in) {
    check_dtype(in_rows, ScalarType::Int, op, "in_rows");
    check_dtype(out_rows, ScalarType::Int, op, "out_rows");
    check_dtype(starts, ScalarType::Long, op, "starts");
    check_dtype(table, ScalarType::Int, op, "table");
    check_shape(in_rows, {-1}, op, "in_rows");
    check_shape(out_rows, {in_rows.size(0)}, op, "out_rows");
    check_shape(starts, {-1}, op, "starts");
    check_same_device(in_rows, like, op, "in_rows");
    check_same_device(out_rows, like, op, "out_rows");
    check_same_device(starts, like, op, "starts");
    check_same_device(table, like, op, "table");
    dense_all(in_rows, out_rows, starts, table);
    n_taps = has_pairs() ? starts.size(0) - 1 : table.size(0);
  }

  bool has_pairs() const { return starts.size(0) > 0; }
};

struct ConvolutionInput {
  Tensor features, weight;
  std::optional<Tensor> bias, residual;
  MapInput map;
  Tensor order, tile_masks;  // for a GPU
  Activation activation;
  double slope;
  bool allow_tf32;  // float32 on tensor cores
  int64_t n_in, n_out, channels_in, channels_out, groups;

  ConvolutionInput(Tensor features_in, Tensor weight_in, std::optional<Tensor> bias_in,
                   std::optional<Tensor> residual_in, int64_t activation_in, double slope_in,
                   bool allow_tf32_in, int64_t n_out_in, const MapInput& map_in, Tensor order_in,
                   Tensor tile_masks_in)
      : features(features_in),
        weight(weight_in),
        bias(bias_in),
        residual(residual_in),
        map(map_in),
        order(order_in),
        tile_masks(tile_masks_in),
        activation(static_cast<Activation>(activation_in)),
        slope(slope_in),
        allow_tf32(allow_tf32_in),
        n_out(n_out_in) {
    const char* op = "sparse_conv";
    check_element(features, op, "features");
    check_shape(features, {-1, -1}, op, "features");
    check_shape(weight, {map.n_taps, -1, -1}, op, "weight");
    check_dtype(weight, features.scalar_type(), op, "weight");
    check_same_device(weight, features, op, "weight");
    n_in = features.size(0), channels_in = features.size(1), channels_out = weight.size(2);
    check_row_count(n_in, op, "features");
    check_row_count(n_out, op, "n_out");
    set_groups(op);
    check_epilogue(op);
    STD_TORCH_CHECK(activation_in >= 0 && activation_in < kActivations, op,
                    ": activation: expected 0 to ", kActivations - 1, ", got ", activation_in);
    dense_all(features, weight, bias, residual, order, tile_masks);
  }

 private:
  void set_groups(const char* op) {
    const int64_t own = weight.size(1);
    groups = own > 0 ? channels_in / own : 1;
    STD_TORCH_CHECK(own > 0
                        ? groups * own == channels_in && groups > 0 && channels_out % groups == 0
                        : channels_in == 0,
                    op, ": weight: expected [K, C_in / groups, C_out] for features ",
                    shape_text(features), ", got ", shape_text(weight));
  }

  void check_epilogue(const char* op) const {
    if (bias.has_value()) {
      check_shape(*bias, {channels_out}, op, "bias");
      check_dtype(*bias, features.scalar_type(), op, "bias");
      check_same_device(*bias, features, op, "bias");
    }
    if (residual.has_value()) {
      check_shape(*residual, {n_out, channels_out}, op, "residual");
      check_dtype(*residual, features.scalar_type(), op, "residual");
      check_same_device(*residual, features, op, "residual");
    }
  }
};

template <typename Backend>
Tensor convolve(const ConvolutionInput& in) {
  const Tensor out = new_empty(in.features, {in.n_out, in.channels_out});
  if (out.numel() > 0) Backend::forward(in, out);
  return out;
}

// conv_ops.py hands the reverse map to the gradient.
template <typename Backend>
Tensor sparse_conv(Tensor features, Tensor weight, std::optional<Tensor> bias,
                   std::optional<Tensor> residual, int64_t activation, double slope,
                   bool allow_tf32, int64_t n_out, Tensor in_rows, Tensor out_rows, Tensor starts,
                   Tensor table, Tensor order, Tensor tile_masks, std::optional<Tensor>,
                   std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>,
                   std::optional<Tensor>, std::optional<Tensor>, bool) {
  return convolve<Backend>({features, weight, bias, residual, activation, slope, allow_tf32, n_out,
                            MapInput(in_rows, out_rows, starts, table, features, "sparse_conv"),
                            order, tile_masks});
}

}  // namespace fl::sparse
