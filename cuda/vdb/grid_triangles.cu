// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of voxels of triangles: a thread a triangle, once to count and once to write. The
// host waits for the number of voxels.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/grid_triangles_entry.h"

namespace fl::vdb {
namespace {

constexpr int kThreads = 128;

inline int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

FL_KERNEL count_kernel(TriangleArgs a, int64_t* counts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < a.n) counts[i] = a.count(i);
  if (i == a.n) counts[i] = 0;
}

FL_KERNEL write_kernel(TriangleArgs a, const int64_t* starts, int32_t* rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < a.n) a.write(i, rows + 3 * starts[i]);
}

struct CudaTriangles {
  static std::tuple<Tensor, Tensor> run(const TriangleArgs& a, int64_t limit, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    Tensor starts = new_empty(like, {a.n + 1}, ScalarType::Long);
    int64_t* start = output<int64_t>(starts);
    FL_LAUNCH(count_kernel, blocks_for(a.n + 1), kThreads, 0, stream, a, start);
    exclusive_scan(start, start, a.n + 1, stream);
    int64_t count = 0;
    copy_to_host(&count, start + a.n, sizeof(int64_t), stream);
    const Tensor total = torch::stable::clone(torch::stable::narrow(starts, 0, a.n, 1));
    const Tensor rows = new_empty(like, {count > limit ? 0 : count, 3}, ScalarType::Int);
    if (rows.size(0) > 0)
      FL_LAUNCH(write_kernel, blocks_for(a.n), kThreads, 0, stream, a, start,
                output<int32_t>(rows));
    return {rows, total};
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_triangle_voxels", TORCH_BOX(&vdb_triangle_voxels<CudaTriangles>));
}

}  // namespace fl::vdb
