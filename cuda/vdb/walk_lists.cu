// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of traversal, segments and voxels: a thread a ray, twice. The first walk counts; a
// scan gives each ray its place, and the host waits once, for the total; the second walk stores.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/walk_lists_entry.h"

namespace fl::vdb {
namespace {

constexpr int kThreads = 64;

struct CountingSink {
  int64_t count, limit;

  FL_HD bool push(const Piece&) { return ++count <= limit; }
};

struct StoringSink {
  PieceTarget target;
  int64_t ray, at, end;

  FL_HD bool push(const Piece& piece) {
    // A ray goes on in the next box after it was stopped in one.
    if (at == end) return false;
    target.store(at, ray, piece);
    return ++at < end;
  }
};

// `bad` grows to 1 + n - (index of the first bad ray); the grid counts as ray n.
template <typename Work>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 8)
    count_pieces(Work work, RayArgs rays, int64_t limit, int64_t* counts, unsigned long long* bad) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rays.count) return;
  CountingSink sink{0, limit};
  const bool good_grid = work.good_grid();
  if (good_grid && rays.good(i))
    work.walk(rays.at(i), i, sink);
  else
    atomicMax(bad, static_cast<unsigned long long>(1 + rays.count - (good_grid ? i : rays.count)));
  counts[i] = sink.count;
}

template <typename Work>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 8)
    store_pieces(Work work, RayArgs rays, const int64_t* counts, const int64_t* starts,
                 PieceTarget target, int64_t* packed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rays.count) return;
  packed[2 * i] = starts[i];
  packed[2 * i + 1] = counts[i];
  if (counts[i] == 0) return;
  StoringSink sink{target, i, starts[i], starts[i] + counts[i]};
  work.walk(rays.at(i), i, sink);
}

// The second walk stops at the last piece, and knows less of where a ray ends than the first.
inline Traverse without_ends(Traverse work) {
  work.terminate = nullptr;
  return work;
}

template <bool kVoxels>
FindPieces<kVoxels> without_ends(FindPieces<kVoxels> work) {
  return work;
}

struct CudaPieces {
  template <typename Work>
  static void run(const Work& work, const RayArgs& rays, int64_t limit, const Tensor& like,
                  Pieces& out, const char* op) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = rays.count, blocks = (n + kThreads - 1) / kThreads;
    const Scratch counts(sizeof(int64_t) * n), places(sizeof(int64_t) * (n + 2));
    int64_t *count = counts.data<int64_t>(), *starts = places.data<int64_t>();
    zero_async(starts, sizeof(int64_t), stream);
    zero_async(starts + n, 2 * sizeof(int64_t), stream);
    FL_LAUNCH((count_pieces<Work>), blocks, kThreads, 0, stream, work, rays, limit, count,
              reinterpret_cast<unsigned long long*>(starts + n + 1));
    inclusive_scan(count, starts + 1, n, stream);
    int64_t found[2] = {0, 0};
    PendingRead total(starts + n, sizeof(found), stream);
    total.wait(found);
    check_good(found[1] == 0 ? kAllGood : 1 + n - found[1], n, op);
    check_limit(found[0], limit, op);
    const PieceTarget target = out.allocate(like, found[0]);
    FL_LAUNCH((store_pieces<Work>), blocks, kThreads, 0, stream, without_ends(work), rays, count,
              starts, target, output<int64_t>(out.packed_info));
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_traverse", TORCH_BOX(&vdb_traverse<CudaPieces>));
  m.impl("vdb_pieces", TORCH_BOX(&vdb_pieces<CudaPieces>));
}

}  // namespace fl::vdb
