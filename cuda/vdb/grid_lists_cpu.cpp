// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of lists: threads over leaves, coordinates, or tops.
#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "vdb/grid_assemble_cpu.h"
#include "vdb/grid_lists_entry.h"

namespace fl::vdb {
namespace {

constexpr int64_t kGrain = 4096;

template <typename I>
std::vector<uint64_t> sorted_keys(const GridShape& shape, const Coordinates<I>& rows) {
  std::vector<uint64_t> keys(rows.count), sorted(rows.count);
  const std::vector<uint8_t> nothing(rows.count);
  std::vector<uint8_t> sorted_nothing(rows.count);
  parallel_for(0, rows.count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) keys[i] = key_of(shape, rows, i);
  });
  // One bit beyond the tops puts those outside last.
  cpu::sort_pairs(keys.data(), sorted.data(), nothing.data(), sorted_nothing.data(), rows.count, 0,
                  kTopShift + top_bits(shape) + 1);
  return sorted;
}

// Takes keys of one top, in order, and gives its nodes' leaves.
class KeyReader {
 public:
  KeyReader(const uint64_t* begin, const uint64_t* end) : next_(begin), end_(end) {}

  uint64_t nodes() const {
    uint64_t mask = 0;
    for (const uint64_t* key = next_; key != end_; ++key)
      mask |= uint64_t{1} << (*key >> kNodeShift & 63);
    return mask;
  }

  uint64_t operator()(int bit, uint64_t* words) {
    uint64_t mask = 0;
    int count = -1;
    for (; next_ != end_ && static_cast<int>(*next_ >> kNodeShift & 63) == bit; ++next_) {
      const uint64_t leaf = uint64_t{1} << (*next_ >> kLeafShift & 63);
      if ((mask & leaf) == 0) words[++count] = 0;
      mask |= leaf;
      words[count] |= uint64_t{1} << (*next_ & 63);
    }
    return mask;
  }

 private:
  const uint64_t *next_, *end_;
};

struct CpuLists {
  template <typename I>
  static MaskTensors build(const GridShape& shape, const Coordinates<I>& rows, const Tensor& like) {
    const std::vector<uint64_t> keys = sorted_keys(shape, rows);
    return assemble_tops(like, shape, [&](int64_t top, Run& run) {
      const uint64_t first = static_cast<uint64_t>(top) << kTopShift;
      const auto begin = std::lower_bound(keys.begin(), keys.end(), first);
      const auto end = std::lower_bound(begin, keys.end(), first + (uint64_t{1} << kTopShift));
      KeyReader reader(keys.data() + (begin - keys.begin()), keys.data() + (end - keys.begin()));
      run.add_top(top, reader.nodes(), reader);
    });
  }

  static void offsets(const uint64_t* leaves, int64_t n, int64_t* out, const Tensor&) {
    out[0] = 0;
    parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i + 1] = count_bits(leaves[i]);
    });
    cpu::inclusive_scan(out + 1, out + 1, n);
  }

  static void origins(const Masks& m, int32_t* out, const Tensor&) {
    const GridShape shape = shape_of(m);
    parallel_for(0, shape.tops(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for_leaves(m, t, top_place(shape, t), [&](const Place& leaf, int64_t index) {
          int32_t* row = out + 4 * index;
          row[0] = leaf.level;
          row[1] = leaf.x;
          row[2] = leaf.y;
          row[3] = leaf.z;
        });
    });
  }

  static Tensor coordinates(const uint64_t* leaves, int64_t n, const int64_t* offsets,
                            const int32_t* origins, const Tensor& like) {
    const Tensor rows = new_empty(like, {offsets[n], 4}, ScalarType::Int);
    int32_t* out = output<int32_t>(rows);
    parallel_for(0, n, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        write_voxels(leaves[i], origins + 4 * i, out + 4 * offsets[i]);
    });
    return rows;
  }

  template <typename I>
  static void index(const Masks& m, const int64_t* offsets, const Coordinates<I>& rows,
                    int64_t* out, const Tensor&) {
    parallel_for(0, rows.count, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = index_of(m, offsets, rows, i);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_from_coordinates", TORCH_BOX(&vdb_from_coordinates<CpuLists>));
  m.impl("vdb_leaf_offsets", TORCH_BOX(&vdb_leaf_offsets<CpuLists>));
  m.impl("vdb_leaf_origins", TORCH_BOX(&vdb_leaf_origins<CpuLists>));
  m.impl("vdb_coordinates", TORCH_BOX(&vdb_coordinates<CpuLists>));
  m.impl("vdb_value_index", TORCH_BOX(&vdb_value_index<CpuLists>));
}

}  // namespace fl::vdb
