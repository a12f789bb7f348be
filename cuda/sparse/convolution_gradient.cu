// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on CUDA, out of the map's pairs; out of its table where there is no
// other form, which is then made into pairs here, without the host's knowing how many.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/convolution_entry.h"
#include "sparse/convolution_gradient_tensor.h"
#include "sparse/convolution_launch.h"

namespace fl::sparse {
namespace {

FL_KERNEL FL_LAUNCH_BOUNDS(256, 1)
    mark_kernel(const int32_t* FL_RESTRICT table, uint8_t* FL_RESTRICT marks, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) marks[i] = table[i] >= 0;
}

FL_KERNEL FL_LAUNCH_BOUNDS(256, 1)
    list_kernel(const int32_t* FL_RESTRICT table, const int64_t* FL_RESTRICT places,
                int32_t* FL_RESTRICT in_rows, int32_t* FL_RESTRICT out_rows,
                int64_t* FL_RESTRICT starts, int64_t n, int64_t n_out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= n) return;
  const int32_t from = table[i];
  if (i % n_out == 0) starts[i / n_out] = places[i];
  if (i == n - 1) starts[n / n_out] = places[i] + (from >= 0 ? 1 : 0);
  if (from < 0) return;
  in_rows[places[i]] = from;
  out_rows[places[i]] = static_cast<int32_t>(i % n_out);
}

// A table's pairs, in arrays as long as there could be.
struct TablePairs {
  Tensor in_rows, out_rows, starts;

  TablePairs(const Tensor& table, Stream stream)
      : in_rows(new_empty(table, {table.numel()})),
        out_rows(new_empty(table, {table.numel()})),
        starts(new_zeros(table, {table.size(0) + 1}, ScalarType::Long)) {
    const int64_t n = table.numel();
    if (n == 0) return;
    const Scratch marks(n), places(n * sizeof(int64_t));
    const int64_t blocks = (n + 255) / 256;
    FL_LAUNCH(mark_kernel, blocks, 256, 0, stream, input<int32_t>(table), marks.data<uint8_t>(), n);
    exclusive_scan(marks.data<uint8_t>(), places.data<int64_t>(), n, stream);
    FL_LAUNCH(list_kernel, blocks, 256, 0, stream, input<int32_t>(table), places.data<int64_t>(),
              output<int32_t>(in_rows), output<int32_t>(out_rows), output<int64_t>(starts), n,
              table.size(1));
  }
};

struct CudaGradient {
  static void weight_gradient(const WeightGradientInput& in, const Tensor& out) {
    const DeviceGuard guard(in.features.get_device_index());
    const Stream stream = current_stream(in.features.get_device_index());
    std::optional<TablePairs> made;
    if (!in.map.has_pairs()) {
      check_shape(in.map.table, {in.map.n_taps, in.n_out}, "sparse_conv_weight_gradient", "table");
      made.emplace(in.map.table, stream);
    }
    const Tensor& in_rows = made.has_value() ? made->in_rows : in.map.in_rows;
    const Tensor& out_rows = made.has_value() ? made->out_rows : in.map.out_rows;
    const Tensor& starts = made.has_value() ? made->starts : in.map.starts;
    dispatch_element(in.features, [&](auto t) {
      using T = decltype(t);
      GradientArgs<T> a{};
      a.features = input<T>(in.features);
      a.gradient = input<T>(in.gradient);
      a.n_in = static_cast<int>(in.n_in);
      a.n_out = static_cast<int>(in.n_out);
      a.channels_in = static_cast<int>(in.channels_in);
      a.channels_out = static_cast<int>(in.channels_out);
      a.n_taps = static_cast<int>(in.map.n_taps);
      a.own_in = static_cast<int>(in.channels_in / in.groups);
      a.own_out = static_cast<int>(in.channels_out / in.groups);
      a.in_rows = input<int32_t>(in_rows);
      a.out_rows = input<int32_t>(out_rows);
      a.starts = input<int64_t>(starts);
      a.n_pairs = in_rows.size(0);
      run(a, in, out, stream);
    });
  }

 private:
  template <typename T>
  static void run(GradientArgs<T> a, const WeightGradientInput& in, const Tensor& out,
                  Stream stream) {
    constexpr bool kHasTensor = !std::is_same<T, double>::value;
    const bool tensor = kHasTensor && in.groups == 1 && has_tensor_cores() &&
                        (in.allow_tf32 || !std::is_same<T, float>::value);
    a.shares = tensor ? tensor_shares(a) : plain_shares(a);
    const Tensor partial = new_empty(in.features, {a.shares + a.n_taps, a.own_in, a.channels_out},
                                     sum_dtype(in.features));
    a.partial = output<Sum<T>>(partial);
    if constexpr (kHasTensor) {
      if (tensor) launch_tensor_gradient(a, stream);
    }
    if (!tensor) launch_plain(a, in.groups, stream);
    // Wider than the features where the weight that learns is.
    if (out.scalar_type() == sum_dtype(in.features))
      sum_shares<Sum<T>>(a, out, stream);
    else
      sum_shares<T>(a, out, stream);
  }

  // As many as run at once, of some length: fewer partial sums to write and to add up.
  template <typename T>
  static int64_t count_shares(const GradientArgs<T>& a, int64_t tiles, int resident) {
    constexpr int64_t kLeastPairs = 128;
    const int64_t at_once = resident * device_sm_count() / tiles, most = a.n_pairs / kLeastPairs;
    const int64_t shares = at_once < most ? at_once : most;
    return shares > 1 ? shares : 1;
  }

  template <typename T>
  static int64_t tensor_shares(GradientArgs<T> a) {
    const GradientTiling tiling(a);
    const dim3 grid = tiling.grid(a);
    return count_shares(a, int64_t{grid.y} * grid.z,
                        resident_gradient_blocks(tiling.rows, tiling.columns));
  }

  template <typename T>
  static dim3 plain_grid(const GradientArgs<T>& a) {
    const auto tiles = [](int channels) {
      return static_cast<unsigned>((channels + kPlainGradientTile - 1) / kPlainGradientTile);
    };
    return dim3(Extent(a.shares).value.x, tiles(a.own_in), tiles(a.channels_out));
  }

  template <typename T>
  static int64_t plain_shares(const GradientArgs<T>& a) {
    const dim3 grid = plain_grid(a);
    return count_shares(a, int64_t{grid.y} * grid.z, 2);
  }

  template <typename T>
  static void launch_plain(const GradientArgs<T>& a, int64_t groups, Stream stream) {
    if (groups == 1) {
      FL_LAUNCH((plain_gradient_kernel<T>), plain_grid(a), 256, 0, stream, a);
      return;
    }
    const int64_t blocks = (int64_t{a.own_in} * a.channels_out + 255) / 256;
    const dim3 grid(Extent(a.shares).value.x, static_cast<unsigned>(blocks < 64 ? blocks : 64));
    FL_LAUNCH((grouped_gradient_kernel<T>), grid, 256, 0, stream, a);
  }

  template <typename Out, typename T>
  static void sum_shares(const GradientArgs<T>& a, const Tensor& out, Stream stream) {
    const int64_t values = int64_t{a.own_in} * a.channels_out;
    const dim3 grid(Extent((values + 255) / 256).value.x, static_cast<unsigned>(a.n_taps));
    FL_LAUNCH((sum_shares_kernel<Out, T>), grid, 256, 0, stream, a, output<Out>(out));
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_conv_weight_gradient", TORCH_BOX(&sparse_conv_weight_gradient<CudaGradient>));
}

}  // namespace fl::sparse
