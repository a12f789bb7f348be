// SPDX-License-Identifier: Apache-2.0
//
// The plan on a CPU, where nothing is computed by it: to count padded work without a GPU, and to
// hold the kernels against.
#include <vector>

#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "sparse/convolution_plan.h"

namespace fl::sparse {
namespace {

struct CpuPlan {
  static void run(const PlanShape& shape, const Tensor& table_in, int32_t* order,
                  int32_t* tile_masks, int32_t* permuted) {
    const int32_t* table = input<int32_t>(table_in);
    const int64_t n = shape.n_out;
    std::vector<uint64_t> keys(shape.splits * n), sorted(shape.splits * n);
    std::vector<int32_t> rows(shape.splits * n);
    for (int64_t split = 0; split < shape.splits; ++split) {
      for (int64_t tap = shape.first_tap(split); tap < shape.end_tap(split); ++tap)
        for (int64_t row = 0; row < n; ++row)
          keys[split * n + row] |= static_cast<uint64_t>(table[tap * n + row] >= 0)
                                   << (tap - shape.first_tap(split));
      for (int64_t row = 0; row < n; ++row) {
        keys[split * n + row] = shape.key(keys[split * n + row], split);
        rows[split * n + row] = static_cast<int32_t>(row);
      }
    }
    cpu::sort_pairs(keys.data(), sorted.data(), rows.data(), order, shape.splits * n, 0,
                    shape.key_bits());
    for (int64_t i = 0; i < shape.splits * shape.tiles; ++i) tile_masks[i] = 0;
    int32_t* places = order + shape.splits * n;
    for (int64_t split = 0; split < shape.splits; ++split)
      for (int64_t place = 0; place < n; ++place) {
        const int32_t row = order[split * n + place];
        const uint32_t mask = shape.mask(sorted[split * n + place]);
        places[split * n + row] = mask != 0 ? static_cast<int32_t>(place) : -1;
        tile_masks[split * shape.tiles + place / shape.tile_rows] |= static_cast<int32_t>(mask);
        for (int64_t tap = shape.first_tap(split); tap < shape.end_tap(split); ++tap)
          permuted[tap * n + place] =
              mask >> (tap - shape.first_tap(split)) & 1u ? table[tap * n + row] : -1;
      }
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("sparse_conv_plan", TORCH_BOX(&sparse_conv_plan<CpuPlan>)); }

}  // namespace fl::sparse
