// SPDX-License-Identifier: Apache-2.0
//
// Kernels that test the emulator, and the operators that run them. They are ordinary CUDA: nvcc
// compiles this file too, so that what the emulator accepts is what CUDA accepts, and on a GPU the
// same tests must give the same answers. Those in `fail_*` are wrong on purpose.
#include <tuple>

#include "core/check.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"

namespace fl {
namespace {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int block_threads = 256;
constexpr int warps = block_threads / 32;

static_assert(sizeof(float3) == 12 && alignof(float3) == 4, "float3 is packed");
static_assert(sizeof(float4) == 16 && alignof(float4) == 16, "float4 is loaded in one piece");
static_assert(sizeof(double2) == 16 && alignof(double2) == 16, "so is double2");
static_assert(alignof(float2) == 8 && alignof(int2) == 8 && alignof(uchar4) == 4, "as in CUDA");

// ---------------------------------------------------------------------------- reduction

template <typename T>
FL_D T warp_sum(T value) {
  FL_UNROLL
  for (unsigned delta = 16; delta > 0; delta /= 2)
    value += __shfl_down_sync(all_lanes, value, delta);
  return value;
}

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(block_threads, 2)
    reduce_kernel(const T* FL_RESTRICT x, T* FL_RESTRICT total, int64_t n) {
  FL_SHARED(T, partial, warps);
  T sum = 0;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride)
    sum += __ldg(x + i);
  sum = warp_sum(sum);
  if (threadIdx.x % warpSize == 0) partial[threadIdx.x / warpSize] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = warp_sum(threadIdx.x < warps ? partial[threadIdx.x] : T(0));
  if (threadIdx.x == 0) atomicAdd(total, sum);
}

Tensor reduce(const Tensor& x) {
  check_float(x, "selftest_reduce", "x");
  const Tensor total = new_zeros(x, {1});
  const Stream stream = current_stream(x.get_device_index());
  const int64_t blocks =
      std::min<int64_t>((x.numel() + block_threads - 1) / block_threads, 4 * device_sm_count());
  dispatch_float(x, [&](auto scalar) {
    using T = decltype(scalar);
    FL_LAUNCH((reduce_kernel<T>), blocks, block_threads, 0, stream, input<T>(x), output<T>(total),
              x.numel());
  });
  return total;
}

// ---------------------------------------------------------------------------- scan in one pass

// Each block takes the next part of the input and waits for the sum of the part before it: the
// block that holds that part has taken it earlier, so it runs or has ended.
FL_KERNEL scan_kernel(const int* FL_RESTRICT x, int* FL_RESTRICT out, int n, unsigned* next_part,
                      unsigned long long* sums) {
  FL_DYNAMIC_SHARED(int, warp_sums);
  FL_SHARED(unsigned, part, 1);
  FL_SHARED(int, before, 1);
  if (threadIdx.x == 0) part[0] = atomicAdd(next_part, 1u);
  __syncthreads();
  const int i = static_cast<int>(part[0] * blockDim.x + threadIdx.x);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = i < n ? x[i] : 0;
  for (unsigned delta = 1; delta < 32; delta *= 2) {
    const int other = __shfl_up_sync(all_lanes, sum, delta);
    if (lane >= delta) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned w = 1; w < blockDim.x / 32; ++w) warp_sums[w] += warp_sums[w - 1];
    unsigned long long previous = 1ull << 32;
    if (part[0] > 0)
      while (((previous = atomicAdd(&sums[part[0] - 1], 0ull)) >> 32) == 0) __nanosleep(50);
    before[0] = static_cast<int>(previous & 0xffffffffu);
    const int inclusive = before[0] + warp_sums[blockDim.x / 32 - 1];
    __threadfence();
    atomicExch(&sums[part[0]], 1ull << 32 | static_cast<unsigned>(inclusive));
  }
  __syncthreads();
  if (i < n) out[i] = sum + before[0] + (warp > 0 ? warp_sums[warp - 1] : 0);
}

Tensor scan(const Tensor& x) {
  check_dtype(x, ScalarType::Int, "selftest_scan", "x");
  const int64_t n = x.numel(), blocks = (n + block_threads - 1) / block_threads;
  const Tensor out = new_empty(x, {n});
  const Tensor next_part = new_zeros(x, {1});
  const Tensor sums = new_zeros(x, {blocks}, ScalarType::Long);
  FL_LAUNCH(scan_kernel, blocks, block_threads, warps * sizeof(int),
            current_stream(x.get_device_index()), input<int>(x), output<int>(out),
            static_cast<int>(n), output<unsigned>(next_part), output<unsigned long long>(sums));
  return out;
}

// ---------------------------------------------------------------------------- histogram

FL_KERNEL histogram_kernel(const uint8_t* FL_RESTRICT x, int* FL_RESTRICT counts, int64_t n) {
  FL_SHARED(int, local, 256);
  local[threadIdx.x] = 0;
  __syncthreads();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(local + x[i], 1);
  __syncthreads();
  if (local[threadIdx.x] > 0) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

Tensor histogram(const Tensor& x) {
  check_dtype(x, ScalarType::Byte, "selftest_histogram", "x");
  const Tensor counts = new_zeros(x, {256}, ScalarType::Int);
  FL_LAUNCH(histogram_kernel, (x.numel() + 255) / 256, 256, 0, current_stream(x.get_device_index()),
            input<uint8_t>(x), output<int>(counts), x.numel());
  return counts;
}

// ---------------------------------------------------------------------------- matrix product

constexpr int tile = 16;

template <typename T>
FL_KERNEL matmul_kernel(const T* FL_RESTRICT a, const T* FL_RESTRICT b, T* FL_RESTRICT c, int rows,
                        int inner, int columns) {
  FL_SHARED_2D(T, a_tile, tile, tile);
  FL_SHARED_2D(T, b_tile, tile, tile + 1);
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * tile + y, column = blockIdx.x * tile + x;
  T sum = 0;
  for (int start = 0; start < inner; start += tile) {
    a_tile[y][x] = row < rows && start + x < inner ? a[row * inner + start + x] : T(0);
    b_tile[y][x] = column < columns && start + y < inner ? b[(start + y) * columns + column] : T(0);
    __syncthreads();
    for (int k = 0; k < tile; ++k) sum += a_tile[y][k] * b_tile[k][x];
    __syncthreads();
  }
  if (row < rows && column < columns) c[row * columns + column] = sum;
}

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_float(a, "selftest_matmul", "a");
  check_shape(b, {a.size(1), -1}, "selftest_matmul", "b");
  const Tensor c = new_empty(a, {a.size(0), b.size(1)});
  const int rows = static_cast<int>(a.size(0)), inner = static_cast<int>(a.size(1)),
            columns = static_cast<int>(b.size(1));
  const dim3 grid((columns + tile - 1) / tile, (rows + tile - 1) / tile);
  dispatch_float(a, [&](auto scalar) {
    using T = decltype(scalar);
    FL_LAUNCH((matmul_kernel<T>), grid, dim3(tile, tile), 0, current_stream(a.get_device_index()),
              input<T>(a), input<T>(b), output<T>(c), rows, inner, columns);
  });
  return c;
}

// ---------------------------------------------------------------------------- warp operations

constexpr int vote_columns = 17;

// Lanes from `live` on end at once; the others name all lanes in their masks all the same.
FL_KERNEL votes_kernel(const int* values, int* out, unsigned live) {
  const unsigned lane = threadIdx.x % 32;
  if (lane >= live) return;
  const int v = values[threadIdx.x];
  int* row = out + threadIdx.x * vote_columns;
  row[0] = static_cast<int>(__ballot_sync(all_lanes, v > 0));
  row[1] = __any_sync(all_lanes, v > 5);
  row[2] = __all_sync(all_lanes, v > -5);
  row[3] = static_cast<int>(__match_any_sync(all_lanes, v));
  row[4] = __shfl_sync(all_lanes, v, 3);
  row[5] = __shfl_up_sync(all_lanes, v, 1);
  row[6] = __shfl_down_sync(all_lanes, v, 2, 8);
  row[7] = __shfl_xor_sync(all_lanes, v, 5);
  row[8] = __shfl_sync(all_lanes, v, static_cast<int>(lane) + 1, 4);
  row[9] = __syncthreads_count(v > 0);
  row[10] = __syncthreads_or(v > 5) != 0;
  row[11] = __syncthreads_and(v > -5) != 0;
  // Halves of a warp in different branches, each with its own mask.
  if (lane % 2 == 0)
    row[12] = static_cast<int>(__ballot_sync(0x55555555u, v > 0));
  else
    row[12] = __shfl_xor_sync(0xAAAAAAAAu, v, 2);
  __syncwarp();
  int same = 0;
  row[13] = static_cast<int>(__match_all_sync(all_lanes, v > -100, &same)) + same;
  const long long wide = __shfl_xor_sync(all_lanes, static_cast<long long>(v) << 33, 1);
  row[14] = static_cast<int>(wide >> 33);
  row[15] = static_cast<int>(__shfl_up_sync(all_lanes, 0.5 * v, 3, 16) * 2);
  row[16] = __popc(__ballot_sync(all_lanes, v > 0) & ((1u << lane) - 1));
}

Tensor votes(const Tensor& values, int64_t live) {
  check_dtype(values, ScalarType::Int, "selftest_votes", "values");
  const Tensor out = new_zeros(values, {values.numel(), vote_columns});
  FL_LAUNCH(votes_kernel, 1, values.numel(), 0, current_stream(values.get_device_index()),
            input<int>(values), output<int>(out), static_cast<unsigned>(live));
  return out;
}

// ---------------------------------------------------------------------------- sort and scan

std::tuple<Tensor, Tensor> sort(const Tensor& keys, const Tensor& values, int64_t begin_bit,
                                int64_t end_bit) {
  check_dtype(values, ScalarType::Int, "selftest_sort", "values");
  check_shape(values, {keys.numel()}, "selftest_sort", "values");
  const Tensor keys_out = new_empty(keys, {keys.numel()});
  const Tensor values_out = new_empty(values, {keys.numel()});
  const auto run = [&](auto key) {
    using Key = decltype(key);
    sort_pairs(input<Key>(keys), output<Key>(keys_out), input<int>(values), output<int>(values_out),
               keys.numel(), static_cast<int>(begin_bit), static_cast<int>(end_bit),
               current_stream(keys.get_device_index()));
  };
  if (keys.scalar_type() == ScalarType::Short) run(uint16_t{});
  if (keys.scalar_type() == ScalarType::Int) run(uint32_t{});
  if (keys.scalar_type() == ScalarType::Long) run(uint64_t{});
  return {keys_out, values_out};
}

// Exclusive and inclusive sums, the total, the indices of the nonzero, and their number.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> scans(const Tensor& x) {
  check_dtype(x, ScalarType::Byte, "selftest_scans", "x");
  const int64_t n = x.numel();
  const Stream stream = current_stream(x.get_device_index());
  const Tensor exclusive = new_empty(x, {n}, ScalarType::Long);
  const Tensor inclusive = new_empty(x, {n}, ScalarType::Float);
  const Tensor total = new_empty(x, {1}, ScalarType::Long);
  const Tensor indices = new_empty(x, {n}, ScalarType::Int);
  const Tensor count = new_empty(x, {1}, ScalarType::Long);
  exclusive_scan(input<uint8_t>(x), output<int64_t>(exclusive), n, stream);
  inclusive_scan(input<uint8_t>(x), output<float>(inclusive), n, stream);
  reduce_sum(input<uint8_t>(x), output<int64_t>(total), n, stream);
  select_indices(input<uint8_t>(x), output<int>(indices), output<int64_t>(count), n, stream);
  return {exclusive, inclusive, total, indices, count};
}

// ---------------------------------------------------------------------------- wrong on purpose

// Alive while a thread runs: what is left of the count was not unwound.
class Alive {
 public:
  FL_D explicit Alive(int* count) : count_(count) { atomicAdd(count_, 1); }
  FL_D ~Alive() { atomicSub(count_, 1); }

 private:
  int* count_;
};

FL_KERNEL fail_divergent_barrier(int* alive) {
  const Alive here(alive);
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();
}

// Thread 32 waits for its neighbour, which waits at the block's barrier for thread 32.
FL_KERNEL fail_deadlock(int* alive) {
  const Alive here(alive);
  if (threadIdx.x == 32) __syncwarp(0x3);
  __syncthreads();
}

FL_KERNEL fail_different_operations(int* alive) {
  const Alive here(alive);
  if (threadIdx.x % 2 == 0)
    alive[1] = __any_sync(all_lanes, 1);
  else
    alive[1] = __shfl_sync(all_lanes, alive[1], 0);
}

FL_KERNEL fail_mask_without_caller(int* alive) {
  const Alive here(alive);
  alive[1] = __any_sync(0xfffffffeu, 1);
}

FL_KERNEL fail_shared_index(int* alive, int index) {
  const Alive here(alive);
  FL_SHARED(int, values, 64);
  values[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 5) alive[1] = values[index];
  __syncthreads();
}

FL_KERNEL fail_shared_index_2d(int* alive, int row, int column) {
  const Alive here(alive);
  FL_SHARED_2D(float, grid_values, 4, 8);
  if (threadIdx.x == 5) grid_values[row][column] = 1.0f;
  __syncthreads();
  if (threadIdx.x == 5) alive[1] = grid_values[row][column] == 1.0f;
}

FL_KERNEL fail_dynamic_index(int* alive, int index) {
  const Alive here(alive);
  FL_DYNAMIC_SHARED(double, scratch);
  if (threadIdx.x == 5) scratch[index] = 1.0;
  __syncthreads();
  if (threadIdx.x == 5) alive[1] = scratch[index] == 1.0;
}

FL_KERNEL fail_stray_pointer(int* alive, int offset) {
  const Alive here(alive);
  FL_SHARED(float, values, 32);
  FL_SHARED(float, others, 32);
  float* pointer = values;
  others[threadIdx.x % 32] = 0.0f;
  if (threadIdx.x == 5) pointer[offset] = 1.0f;
  __syncthreads();
  if (threadIdx.x == 5) alive[1] = values[offset & 31] + others[offset & 31] > 0.0f;
}

FL_KERNEL fail_trap(int* alive) {
  const Alive here(alive);
  if (threadIdx.x == 5) __trap();
  __syncthreads();
}

FL_KERNEL fail_livelock(int* alive) {
  const Alive here(alive);
  while (atomicAdd(&alive[1], 0) == 0) __nanosleep(10);
}

// Not an error that can be seen, but a wrong result: a barrier is missing between the lines.
FL_KERNEL missing_barrier(int* out) {
  FL_SHARED(int, values, 64);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[63 - threadIdx.x];
}

void fail(const Tensor& alive, int64_t number, int64_t index) {
  check_dtype(alive, ScalarType::Int, "selftest_fail", "alive");
  check_shape(alive, {64}, "selftest_fail", "alive");
  const Stream stream = current_stream(alive.get_device_index());
  int* const counts = output<int>(alive);
  const int i = static_cast<int>(index);
  constexpr int threads = 64;
  switch (number) {
    case 0:
      FL_LAUNCH(fail_divergent_barrier, 1, threads, 0, stream, counts);
      break;
    case 1:
      FL_LAUNCH(fail_deadlock, 1, threads, 0, stream, counts);
      break;
    case 2:
      FL_LAUNCH(fail_different_operations, 1, threads, 0, stream, counts);
      break;
    case 3:
      FL_LAUNCH(fail_mask_without_caller, 1, threads, 0, stream, counts);
      break;
    case 4:
      FL_LAUNCH(fail_shared_index, 2, threads, 0, stream, counts, i);
      break;
    case 5:
      FL_LAUNCH(fail_shared_index_2d, 1, threads, 0, stream, counts, i, 0);
      break;
    case 6:
      FL_LAUNCH(fail_shared_index_2d, 1, threads, 0, stream, counts, 0, i);
      break;
    case 7:
      FL_LAUNCH(fail_dynamic_index, 1, threads, 256, stream, counts, i);
      break;
    case 8:
      FL_LAUNCH(fail_stray_pointer, 1, threads, 0, stream, counts, i);
      break;
    case 9:
      FL_LAUNCH(fail_trap, 1, dim3(8, 4, 2), 0, stream, counts);
      break;
    case 10:
      FL_LAUNCH(fail_livelock, 1, threads, 0, stream, counts);
      break;
    case 11:
      FL_LAUNCH(fail_livelock, 1, 2048, 0, stream, counts);
      break;
    case 12:
      FL_LAUNCH(fail_livelock, 1, threads, 300 * 1024, stream, counts);
      break;
    case 13:
      FL_LAUNCH(fail_livelock, index, threads, 0, stream, counts);
      break;
    default:
      FL_LAUNCH(missing_barrier, 1, threads, 0, stream, counts);
      break;
  }
}

#ifdef FL_EMULATE
void set_thread_order(int64_t order) { emulate::set_thread_order(order); }

bool built_with_asan() {
#ifdef __SANITIZE_ADDRESS__
  return true;
#else
  return false;
#endif
}
#endif

}  // namespace
}  // namespace fl

FL_LIBRARY_FRAGMENT(m) {
  m.def("selftest_reduce(Tensor x) -> Tensor");
  m.def("selftest_scan(Tensor x) -> Tensor");
  m.def("selftest_histogram(Tensor x) -> Tensor");
  m.def("selftest_matmul(Tensor a, Tensor b) -> Tensor");
  m.def("selftest_votes(Tensor values, int live) -> Tensor");
  m.def(
      "selftest_sort(Tensor keys, Tensor values, int begin_bit, int end_bit) -> (Tensor, Tensor)");
  m.def("selftest_scans(Tensor x) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("selftest_fail(Tensor(a!) alive, int number, int index) -> ()");
#ifdef FL_EMULATE
  m.def("set_thread_order(int order) -> ()");
  m.def("built_with_asan() -> bool");
#endif
}

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("selftest_reduce", TORCH_BOX(&fl::reduce));
  m.impl("selftest_scan", TORCH_BOX(&fl::scan));
  m.impl("selftest_histogram", TORCH_BOX(&fl::histogram));
  m.impl("selftest_matmul", TORCH_BOX(&fl::matmul));
  m.impl("selftest_votes", TORCH_BOX(&fl::votes));
  m.impl("selftest_sort", TORCH_BOX(&fl::sort));
  m.impl("selftest_scans", TORCH_BOX(&fl::scans));
  m.impl("selftest_fail", TORCH_BOX(&fl::fail));
}

#ifdef FL_EMULATE
STABLE_TORCH_LIBRARY_IMPL(fieldline_emulated, CompositeExplicitAutograd, m) {
  m.impl("set_thread_order", TORCH_BOX(&fl::set_thread_order));
  m.impl("built_with_asan", TORCH_BOX(&fl::built_with_asan));
}
#endif
