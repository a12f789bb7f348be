// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the forms of a kernel map: a thread a place of the table, or a pair. Rows that
// lie outside are passed over, as a check of them would have to wait.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/launch.h"
#include "sparse/map_forms_entry.h"

namespace fl::sparse {
namespace {

FL_KERNEL present_kernel(const int32_t* table, int64_t places, uint8_t* present) {
  const int64_t i = this_thread();
  if (i <= places) present[i] = i < places && table[i] >= 0;
}

FL_KERNEL starts_kernel(const int64_t* before, int64_t taps, int64_t n, int64_t* starts) {
  const int64_t tap = this_thread();
  if (tap <= taps) starts[tap] = before[tap * n];
}

FL_KERNEL list_kernel(const int32_t* table, const int64_t* before, int64_t places, int64_t n,
                      int32_t* fine, int32_t* coarse) {
  const int64_t i = this_thread();
  if (i >= places || table[i] < 0) return;
  fine[before[i]] = table[i];
  coarse[before[i]] = static_cast<int32_t>(i % n);
}

struct DevicePairs {
  const int32_t *fine, *coarse;
  const int64_t* starts;
  int64_t count, taps;

  // The last tap that starts at or before the pair.
  FL_D int64_t tap_of(int64_t pair) const {
    int64_t low = 0, high = taps;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (starts[middle] <= pair ? low : high) = middle;
    }
    return low;
  }
};

DevicePairs view(const PairInput& pairs) {
  return {input<int32_t>(pairs.fine_rows), input<int32_t>(pairs.coarse_rows),
          input<int64_t>(pairs.starts), pairs.count, pairs.taps};
}

FL_KERNEL write_kernel(DevicePairs pairs, int64_t n, int32_t* table) {
  const int64_t i = this_thread();
  if (i >= pairs.count) return;
  const int64_t coarse = pairs.coarse[i];
  if (coarse >= 0 && coarse < n) table[pairs.tap_of(i) * n + coarse] = pairs.fine[i];
}

FL_KERNEL invert_kernel(const int32_t* table, int64_t places, int64_t n, int64_t n_fine,
                        int32_t* inverse) {
  const int64_t i = this_thread();
  if (i >= places) return;
  const int64_t fine = table[i];
  if (fine >= 0 && fine < n_fine)
    atomicMin(reinterpret_cast<unsigned*>(inverse + i / n * n_fine + fine),
              static_cast<unsigned>(i % n));
}

FL_KERNEL tap_key_kernel(DevicePairs pairs, uint64_t* keys) {
  const int64_t i = this_thread();
  if (i < pairs.count)
    keys[i] = static_cast<uint64_t>(pairs.tap_of(i)) << 32 | static_cast<uint32_t>(pairs.fine[i]);
}

FL_KERNEL low_half_kernel(const uint64_t* keys, int64_t n, int32_t* out) {
  const int64_t i = this_thread();
  if (i < n) out[i] = static_cast<int32_t>(keys[i]);
}

struct CudaForms {
  static std::tuple<Tensor, Tensor, Tensor> table_pairs(const Tensor& table) {
    const DeviceGuard guard(table.get_device_index());
    const Stream stream = current_stream(table.get_device_index());
    const int64_t taps = table.size(0), n = table.size(1), places = taps * n;
    const int32_t* rows = input<int32_t>(table);
    const Scratch present(places + 1), sums(sizeof(int64_t) * (places + 1));
    int64_t* before = sums.data<int64_t>();
    FL_LAUNCH(present_kernel, blocks_for(places + 1), kThreads, 0, stream, rows, places,
              present.data<uint8_t>());
    exclusive_scan(present.data<uint8_t>(), before, places + 1, stream);
    PendingRead read(before + places, sizeof(int64_t), stream);
    const Tensor starts = new_empty(table, {taps + 1}, ScalarType::Long);
    FL_LAUNCH(starts_kernel, blocks_for(taps + 1), kThreads, 0, stream, before, taps, n,
              output<int64_t>(starts));
    int64_t count = 0;
    read.wait(&count);
    const Tensor fine = new_empty(table, {count}), coarse = new_empty(table, {count});
    FL_LAUNCH(list_kernel, blocks_for(places), kThreads, 0, stream, rows, before, places, n,
              output<int32_t>(fine), output<int32_t>(coarse));
    return {fine, coarse, starts};
  }

  static void pairs_table(const PairInput& pairs, int64_t n_coarse, int32_t* table) {
    const DeviceGuard guard(pairs.fine_rows.get_device_index());
    const Stream stream = current_stream(pairs.fine_rows.get_device_index());
    fill(table, pairs.taps * n_coarse, -1, stream);
    if (pairs.taps > 0)
      FL_LAUNCH(write_kernel, blocks_for(pairs.count), kThreads, 0, stream, view(pairs), n_coarse,
                table);
  }

  static void invert_table(const Tensor& table, int64_t n_fine, int32_t* inverse) {
    const DeviceGuard guard(table.get_device_index());
    const Stream stream = current_stream(table.get_device_index());
    const int64_t taps = table.size(0), n = table.size(1);
    fill(inverse, taps * n_fine, -1, stream);
    FL_LAUNCH(invert_kernel, blocks_for(taps * n), kThreads, 0, stream, input<int32_t>(table),
              taps * n, n, n_fine, inverse);
  }

  static void invert_pairs(const PairInput& pairs, int64_t, int32_t* fine, int32_t* coarse) {
    const DeviceGuard guard(pairs.fine_rows.get_device_index());
    const Stream stream = current_stream(pairs.fine_rows.get_device_index());
    const int64_t n = pairs.count;
    const Scratch memory(2 * sizeof(uint64_t) * n);
    uint64_t* keys = memory.data<uint64_t>();
    int tap_bits = 0;
    while (pairs.taps >> tap_bits != 0) ++tap_bits;
    FL_LAUNCH(tap_key_kernel, blocks_for(n), kThreads, 0, stream, view(pairs), keys);
    sort_pairs(keys, keys + n, input<int32_t>(pairs.coarse_rows), coarse, n, 0, 32 + tap_bits,
               stream);
    FL_LAUNCH(low_half_kernel, blocks_for(n), kThreads, 0, stream, keys + n, n, fine);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_table_pairs", TORCH_BOX(&sparse_table_pairs<CudaForms>));
  m.impl("sparse_pairs_table", TORCH_BOX(&sparse_pairs_table<CudaForms>));
  m.impl("sparse_invert_table", TORCH_BOX(&sparse_invert_table<CudaForms>));
  m.impl("sparse_invert_pairs", TORCH_BOX(&sparse_invert_pairs<CudaForms>));
}

}  // namespace fl::sparse
