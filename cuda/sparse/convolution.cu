// SPDX-License-Identifier: Apache-2.0
//
// Convolution on CUDA: which form of the map was given, and which kernel serves it. Nothing waits
// for the host, and beside the output only partial sums are allocated.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "sparse/convolution_backward.h"
#include "sparse/convolution_launch.h"

namespace fl::sparse {
namespace {

// Room for Progress behind partial sums, whichever their dtype.
constexpr int64_t kProgressValues = sizeof(Progress) / sizeof(float);

template <typename T>
GemmArgs<T> make_args(const ConvolutionInput& in, const Tensor& out) {
  GemmArgs<T> a{};
  a.features = input<T>(in.features);
  a.weight = input<T>(in.weight);
  a.n_in = static_cast<int>(in.n_in);
  a.channels_in = static_cast<int>(in.channels_in);
  a.channels_out = static_cast<int>(in.channels_out);
  a.n_taps = static_cast<int>(in.map.n_taps);
  a.n_out = in.n_out;
  a.table = input<int32_t>(in.map.table);
  a.epilogue = {optional_input<T>(in.bias),
                optional_input<T>(in.residual),
                output<T>(out),
                in.activation,
                static_cast<Sum<T>>(in.slope),
                static_cast<int>(in.channels_out)};
  return a;
}

// The sizes of a plan say what it was made with.
template <typename T>
void read_plan(GemmArgs<T>& a, const ConvolutionInput& in) {
  const char* op = "sparse_conv";
  check_dtype(in.order, ScalarType::Int, op, "order");
  check_dtype(in.tile_masks, ScalarType::Int, op, "tile_masks");
  check_shape(in.order, {2, -1, in.n_out}, op, "order");
  const int64_t splits = in.order.size(1);
  check_shape(in.tile_masks, {splits, -1}, op, "tile_masks");
  check_same_device(in.order, in.features, op, "order");
  check_same_device(in.tile_masks, in.features, op, "tile_masks");
  a.tile_rows = in.tile_masks.size(1) == (in.n_out + 63) / 64 ? 64 : 128;
  STD_TORCH_CHECK(splits > 0 && splits <= in.map.n_taps &&
                      in.tile_masks.size(1) == (in.n_out + a.tile_rows - 1) / a.tile_rows &&
                      taps_per_split(in.map.n_taps, splits) <= kMostSplitTaps,
                  op, ": tile_masks: expected those of sparse_conv_plan, got ",
                  shape_text(in.tile_masks));
  a.order = input<int32_t>(in.order);
  a.tile_masks = input<int32_t>(in.tile_masks);
  a.splits = static_cast<int>(splits);
  a.split_taps = static_cast<int>(taps_per_split(in.map.n_taps, splits));
}

struct CudaConvolution {
  static void forward(const ConvolutionInput& in, const Tensor& out) {
    const DeviceGuard guard(in.features.get_device_index());
    const Stream stream = current_stream(in.features.get_device_index());
    STD_TORCH_CHECK(in.channels_in < (int64_t{1} << 26) && in.channels_out < (int64_t{1} << 26),
                    "sparse_conv: features, weight: expected below 2^26 channels");
    dispatch_element(in.features, [&](auto t) { convolve<decltype(t)>(in, out, stream); });
  }

 private:
  template <typename T>
  static void convolve(const ConvolutionInput& in, const Tensor& out, Stream stream) {
    GemmArgs<T> a = make_args<T>(in, out);
    check_shape(in.map.table, {in.map.n_taps, in.n_out}, "sparse_conv", "table");
    if (in.groups == 1 && in.order.numel() > 0)
      implicit(a, in, stream);
    else if (in.groups == 1 && in.map.has_pairs())
      grouped(a, in, stream);
    else
      direct(a, in, stream);
  }

  template <typename T>
  static void direct(const GemmArgs<T>& a, const ConvolutionInput& in, Stream stream) {
    STD_TORCH_CHECK(in.order.numel() == 0 && !in.map.has_pairs(),
                    "sparse_conv: table: expected it alone for groups of channels");
    const RowShape shape(in.channels_out, 1);
    FL_LAUNCH((direct_kernel<T>), shape.blocks(in.n_out), shape.block, 0, stream, a,
              static_cast<int>(in.weight.size(1)), static_cast<int>(in.channels_out / in.groups));
  }

  template <typename T>
  static void implicit(GemmArgs<T> a, const ConvolutionInput& in, Stream stream) {
    read_plan(a, in);
    std::optional<Tensor> partial;
    if (a.splits > 1) {
      const int64_t sums = (a.splits - 1) * in.n_out * in.channels_out;
      partial = new_empty(in.features, {sums + kProgressValues}, sum_dtype(in.features));
      a.partial = output<Sum<T>>(*partial);
      a.progress = reinterpret_cast<Progress*>(a.partial + sums);
      zero_async(a.progress, sizeof(Progress), stream);
    }
    GemmLauncher<T>(a, in.allow_tf32, stream).launch(a);
  }

  template <typename T>
  static void grouped(GemmArgs<T> a, const ConvolutionInput& in, Stream stream) {
    const int64_t n_pairs = in.map.in_rows.size(0);
    const Tensor partial =
        new_empty(in.features, {n_pairs, in.channels_out}, sum_dtype(in.features));
    a.partial = output<Sum<T>>(partial);
    a.in_rows = input<int32_t>(in.map.in_rows);
    a.starts = input<int64_t>(in.map.starts);
    a.n_pairs = n_pairs;
    a.split_taps = 1;
    if (n_pairs > 0) GemmLauncher<T>(a, in.allow_tf32, stream).launch(a);
    dispatch_width<T>(in.channels_out, is_aligned(a.epilogue), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const RowShape shape(in.channels_out, kWidth);
      FL_LAUNCH((sum_pairs_kernel<kWidth, T>), shape.blocks(in.n_out), shape.block, 0, stream, a);
    });
  }
};

}  // namespace

void convolve_on_gpu(const ConvolutionInput& in, const Tensor& out) {
  CudaConvolution::forward(in, out);
}

bool has_tensor_cores() {
#if defined(__CUDACC__)
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, current_device()),
             "has_tensor_cores");
  return major >= 8;
#else
  return true;
#endif
}

FL_LIBRARY_IMPL_CUDA(m) { m.impl("sparse_conv", TORCH_BOX(&sparse_conv<CudaConvolution>)); }

}  // namespace fl::sparse
