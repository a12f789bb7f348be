// SPDX-License-Identifier: Apache-2.0
//
// The gradient of the weight on CUDA, out of the map's pairs; out of its table where there is no
// other form, which is then made into pairs here, without the host's knowing how many.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/sort_scan.h"
#include "sparse/convolution_backward.h"
#include "sparse/convolution_gradient_gemm.h"
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
      check_shape(in.map.table, {in.map.n_taps, in.n_out}, "sparse_conv_backward", "table");
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
      run(a, in, out, in_rows.size(0), stream);
    });
  }

 private:
  static int tiles(int channels) { return (channels + kGradientTile - 1) / kGradientTile; }

  // As long as blocks are enough to fill the card: fewer partial sums to write and add up.
  template <typename T>
  static int choose_chunk(const GradientArgs<T>& a, int64_t n_pairs) {
    const int64_t weight_tiles = int64_t{tiles(a.own_in)} * tiles(a.channels_out);
    int chunk = kMostChunk;
    while (chunk > 256 && n_pairs / chunk * weight_tiles < 4 * device_sm_count()) chunk /= 2;
    return chunk;
  }

  template <typename T>
  static void run(GradientArgs<T> a, const WeightGradientInput& in, const Tensor& out,
                  int64_t n_pairs, Stream stream) {
    a.n_pairs = n_pairs;
    a.chunk = choose_chunk(a, n_pairs);
    a.chunks = most_parts(n_pairs, a.n_taps, a.chunk);
    const Tensor partial =
        new_empty(in.features, {a.chunks, a.own_in, a.channels_out}, sum_dtype(in.features));
    a.partial = output<Sum<T>>(partial);
    if (in.groups > 1)
      launch_grouped(a, stream);
    else
      launch_gemm(a, in.allow_tf32, stream);
    // Wider than the features where the weight that learns is.
    if (out.scalar_type() == sum_dtype(in.features))
      sum_chunks<Sum<T>>(a, out, stream);
    else
      sum_chunks<T>(a, out, stream);
  }

  template <typename Out, typename T>
  static void sum_chunks(const GradientArgs<T>& a, const Tensor& out, Stream stream) {
    const int64_t values = int64_t{a.own_in} * a.channels_out;
    const dim3 grid(Extent((values + 255) / 256).value.x, static_cast<unsigned>(a.n_taps));
    FL_LAUNCH((sum_chunks_kernel<Out, T>), grid, 256, 0, stream, a, output<Out>(out));
  }

  template <typename T>
  static std::size_t row_bytes(const GradientArgs<T>& a) {
    return 2 * static_cast<std::size_t>(a.chunk) * sizeof(int32_t);
  }

  template <typename T>
  static void launch_grouped(const GradientArgs<T>& a, Stream stream) {
    const int64_t blocks = (int64_t{a.own_in} * a.channels_out + 255) / 256;
    const dim3 grid(Extent(a.chunks).value.x, static_cast<unsigned>(blocks < 64 ? blocks : 64));
    FL_LAUNCH((grouped_gradient_kernel<T>), grid, 256, row_bytes(a), stream, a);
  }

  template <typename T>
  static void launch_gemm(const GradientArgs<T>& a, bool allow_tf32, Stream stream) {
    const dim3 grid(Extent(a.chunks).value.x, static_cast<unsigned>(tiles(a.channels_in)),
                    static_cast<unsigned>(tiles(a.channels_out)));
    if constexpr (!std::is_same<T, double>::value) {
      if (has_tensor_cores() && (allow_tf32 || !std::is_same<T, float>::value))
        return launch_tensor_gradient(a, grid, stream);
    }
    FL_LAUNCH((plain_gradient_kernel<T>), grid, 256, row_bytes(a), stream, a);
  }

  template <typename T>
  static void launch_tensor_gradient(const GradientArgs<T>& a, dim3 grid, Stream stream) {
    constexpr int kWidth = 16 / sizeof(T);
    const std::size_t bytes = GradientStage<T>::bytes + row_bytes(a);
    if (a.channels_in % kWidth == 0 && a.channels_out % kWidth == 0 && is_aligned(a.features) &&
        is_aligned(a.gradient))
      FL_LAUNCH((tensor_gradient_kernel<T, true>), grid, kGradientThreads, bytes, stream, a);
    else
      FL_LAUNCH((tensor_gradient_kernel<T, false>), grid, kGradientThreads, bytes, stream, a);
  }
};

}  // namespace

void weight_gradient_on_gpu(const WeightGradientInput& in, const Tensor& out) {
  CudaGradient::weight_gradient(in, out);
}

}  // namespace fl::sparse
