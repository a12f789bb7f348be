// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of voxels of triangles: threads over triangles, once to count and once to write.
#include "core/parallel.h"
#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "vdb/grid_triangles_entry.h"

namespace fl::vdb {
namespace {

// Triangles differ in size: small runs of them, each taken by the next free thread.
template <typename F>
void for_triangles(int64_t n, const F& f) {
  constexpr int64_t run = 64;
  parallel_dynamic((n + run - 1) / run, [&](int64_t r, int64_t) {
    for (int64_t i = r * run; i < std::min(n, (r + 1) * run); ++i) f(i);
  });
}

struct CpuTriangles {
  static std::tuple<Tensor, Tensor> run(const TriangleArgs& a, int64_t limit, const Tensor& like) {
    std::vector<int64_t> starts(a.n + 1, 0);
    for_triangles(a.n, [&](int64_t i) { starts[i] = a.count(i); });
    cpu::exclusive_scan(starts.data(), starts.data(), a.n + 1);
    const Tensor total = new_empty(like, {1}, ScalarType::Long);
    output<int64_t>(total)[0] = starts[a.n];
    const Tensor rows =
        new_empty(like, {starts[a.n] > limit ? 0 : starts[a.n], 3}, ScalarType::Int);
    if (rows.size(0) > 0)
      for_triangles(a.n, [&](int64_t i) { a.write(i, output<int32_t>(rows) + 3 * starts[i]); });
    return {rows, total};
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_triangle_voxels", TORCH_BOX(&vdb_triangle_voxels<CpuTriangles>));
}

}  // namespace fl::vdb
