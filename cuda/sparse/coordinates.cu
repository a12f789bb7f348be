// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of hashes and of distinct rows: rows are sorted by keys as wide as their bounds ask
// for, and the first of each run of equals is kept.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/coordinates_cuda.h"

namespace fl::sparse {
namespace {

FL_KERNEL hash_kernel(const int32_t* coords, int64_t n, int columns, int64_t* out) {
  const int64_t i = this_thread();
  if (i < n) out[i] = static_cast<int64_t>(hash_row(coords + i * columns, columns));
}

struct RowList {
  const int32_t* rows;
  int64_t count;
  int columns;

  FL_D const int32_t* row(int64_t i) const { return rows + i * columns; }

  FL_D bool same(int64_t a, int64_t b) const {
    for (int c = 0; c < columns; ++c)
      if (row(a)[c] != row(b)[c]) return false;
    return true;
  }
};

FL_KERNEL number_kernel(int64_t n, uint32_t* numbers) {
  const int64_t i = this_thread();
  if (i < n) numbers[i] = static_cast<uint32_t>(i);
}

FL_KERNEL key_kernel(RowList list, Layout layout, int word, const uint32_t* numbers,
                     uint64_t* keys) {
  const int64_t i = this_thread();
  if (i < list.count) keys[i] = layout.pack_word(list.row(numbers[i]), word);
}

FL_KERNEL begin_kernel(RowList list, const uint32_t* order, uint8_t* begins) {
  const int64_t i = this_thread();
  if (i > list.count) return;
  begins[i] = i < list.count && (i == 0 || !list.same(order[i - 1], order[i]));
}

struct Runs {
  int32_t* rows;
  int64_t *inverse, *first, *counts, *starts;
};

FL_KERNEL run_kernel(RowList list, const uint32_t* order, const uint8_t* begins,
                     const int64_t* places, Runs runs) {
  const int64_t i = this_thread();
  if (i >= list.count) return;
  const int64_t row = order[i], place = places[i];
  runs.inverse[row] = place + begins[i] - 1;
  if (!begins[i]) return;
  for (int c = 0; c < list.columns; ++c) runs.rows[place * list.columns + c] = list.row(row)[c];
  runs.first[place] = row;
  runs.starts[place] = i;
}

FL_KERNEL count_kernel(Runs runs, const int64_t* places, int64_t n) {
  const int64_t i = this_thread(), found = places[n];
  if (i < found) runs.counts[i] = (i + 1 < found ? runs.starts[i + 1] : n) - runs.starts[i];
}

struct CudaCoordinates {
  static void hash(const int32_t* coords, int64_t n, int columns, int64_t* out,
                   const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH(hash_kernel, blocks_for(n), kThreads, 0, current_stream(like.get_device_index()),
              coords, n, columns, out);
  }

  static UniqueTensors unique(const Tensor& coords, int columns) {
    const DeviceGuard guard(coords.get_device_index());
    const Stream stream = current_stream(coords.get_device_index());
    const int64_t n = coords.size(0);
    const RowList list{input<int32_t>(coords), n, columns};
    const Tensor rows = new_empty(coords, {n, columns});
    const Tensor inverse = new_empty(coords, {n}, ScalarType::Long);
    const Tensor first = new_empty(coords, {n}, ScalarType::Long);
    const Tensor counts = new_empty(coords, {n}, ScalarType::Long);
    const Scratch numbers(2 * sizeof(uint32_t) * n), begins(n + 1);
    const Scratch places(sizeof(int64_t) * (n + 1)), starts(sizeof(int64_t) * n);
    const uint32_t* order = sort_rows(list, read_bounds(coords, stream), numbers, stream);
    FL_LAUNCH(begin_kernel, blocks_for(n + 1), kThreads, 0, stream, list, order,
              begins.data<uint8_t>());
    exclusive_scan(begins.data<uint8_t>(), places.data<int64_t>(), n + 1, stream);
    const Runs runs{output<int32_t>(rows), output<int64_t>(inverse), output<int64_t>(first),
                    output<int64_t>(counts), starts.data<int64_t>()};
    FL_LAUNCH(run_kernel, blocks_for(n), kThreads, 0, stream, list, order, begins.data<uint8_t>(),
              places.data<int64_t>(), runs);
    FL_LAUNCH(count_kernel, blocks_for(n), kThreads, 0, stream, runs, places.data<int64_t>(), n);
    int64_t found = 0;
    copy_to_host(&found, places.data<int64_t>() + n, sizeof(found), stream);
    const auto head = [&](Tensor tensor) { return torch::stable::narrow(tensor, 0, 0, found); };
    return {head(rows), inverse, head(first), head(counts)};
  }

 private:
  // Word by word, the one that counts least first: each sort keeps the order of those before.
  static const uint32_t* sort_rows(const RowList& list, const Bounds& bounds,
                                   const Scratch& numbers, Stream stream) {
    const Layout layout = make_layout(list.columns, bounds);
    const Scratch memory(2 * sizeof(uint64_t) * list.count);
    uint64_t* keys = memory.data<uint64_t>();
    uint32_t* from = numbers.data<uint32_t>();
    uint32_t* to = from + list.count;
    FL_LAUNCH(number_kernel, blocks_for(list.count), kThreads, 0, stream, list.count, from);
    for (int word = 0; word < layout.words; ++word, std::swap(from, to)) {
      FL_LAUNCH(key_kernel, blocks_for(list.count), kThreads, 0, stream, list, layout, word, from,
                keys);
      sort_pairs(keys, keys + list.count, from, to, list.count, 0, layout.word_bits(word), stream);
    }
    return from;
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_hash", TORCH_BOX(&sparse_hash<CudaCoordinates>));
  m.impl("sparse_unique", TORCH_BOX(&sparse_unique<CudaCoordinates>));
}

}  // namespace fl::sparse
