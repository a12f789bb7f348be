// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of semi-global aggregation: a warp walks a line, with its planes in registers, K
// neighbouring ones a lane. The planes beside a lane's own come by shuffle, the least by a
// butterfly. One launch a direction: a pixel lies on one line of it, so that totals need no atomics
// and come out the same every time. The next pixel's costs are fetched while this one is worked on.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "match/aggregate_entry.h"

namespace fl::match {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullWarp = 0xffffffffu;

struct Direction {
  Axis axis;
  int lines;
  bool forward, fresh;
};

FL_D int warp_least(int value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = __shfl_xor_sync(kFullWarp, value, distance);
    value = other < value ? other : value;
  }
  return value;
}

FL_D int64_t pixel_at(const AggregateArgs& a, const Direction& d, const Line& line, int step) {
  const int at = d.forward ? step : line.length - 1 - step;
  return static_cast<int64_t>(line.y + d.axis.dy * at) * a.width + line.x + d.axis.dx * at;
}

template <int K>
FL_D void fetch_costs(const AggregateArgs& a, int64_t pixel, int first, int (&cost)[K]) {
  const uint8_t* p = a.cost + pixel * a.planes + first;
  FL_UNROLL
  for (int k = 0; k < K; ++k) cost[k] = first + k < a.planes ? p[k] : kBeyondPlanes;
}

// One pixel on: `state` holds the costs of the path so far. Returns their least.
template <int K>
FL_D int advance(int (&state)[K], const int (&cost)[K], int least, int p1, int p2, int lane,
                 int first, int planes) {
  int left = __shfl_up_sync(kFullWarp, state[K - 1], 1);
  int right = __shfl_down_sync(kFullWarp, state[0], 1);
  if (lane == 0) left = kBeyondPlanes;
  if (lane == 31) right = kBeyondPlanes;
  int smallest = kBeyondPlanes;
  FL_UNROLL
  for (int k = 0; k < K; ++k) {
    const int next = k + 1 < K ? state[k + 1] : right;
    int way = (left < next ? left : next) + p1;
    way = state[k] < way ? state[k] : way;
    way = least + p2 < way ? least + p2 : way;
    left = state[k];
    state[k] = first + k < planes ? cost[k] + way - least : kBeyondPlanes;
    smallest = state[k] < smallest ? state[k] : smallest;
  }
  return warp_least(smallest);
}

template <int K>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 4) aggregate_kernel(AggregateArgs a, Direction direction) {
  const int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (index >= direction.lines) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, first = lane * K;
  const Line line = line_of(direction.axis, index, a.width, a.height);
  int state[K], cost[K], coming[K];
  FL_UNROLL
  for (int k = 0; k < K; ++k) {
    state[k] = first + k < a.planes ? 0 : kBeyondPlanes;
    coming[k] = 0;
  }
  int64_t pixel = pixel_at(a, direction, line, 0);
  fetch_costs(a, pixel, first, cost);
  int grey = grey_of(a.guide[pixel]), least = 0, p2 = a.penalties.p2;
  for (int step = 0; step < line.length; ++step) {
    const int64_t here = pixel;
    int grey_next = grey;
    if (step + 1 < line.length) {
      pixel = pixel_at(a, direction, line, step + 1);
      fetch_costs(a, pixel, first, coming);
      grey_next = grey_of(a.guide[pixel]);
    }
    least = advance(state, cost, least, a.penalties.p1, p2, lane, first, a.planes);
    uint16_t* total = a.total + here * a.planes + first;
    FL_UNROLL
    for (int k = 0; k < K; ++k) {
      if (first + k < a.planes)
        total[k] = static_cast<uint16_t>((direction.fresh ? 0 : total[k]) + state[k]);
      cost[k] = coming[k];
    }
    p2 = edge_penalty(a.penalties, grey_next, grey);
    grey = grey_next;
  }
}

template <int K>
void launch_all(const AggregateArgs& a, Stream stream) {
  for (int path = 0; path < kPaths; ++path) {
    const Axis axis = axis_of(path / 2);
    const Direction direction{axis, line_count(axis, a.width, a.height), path % 2 == 0, path == 0};
    FL_LAUNCH((aggregate_kernel<K>), (direction.lines + kWarps - 1) / kWarps, kThreads, 0, stream,
              a, direction);
  }
}

struct CudaAggregate {
  static void run(const AggregateArgs& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    if (a.planes <= 32)
      launch_all<1>(a, stream);
    else if (a.planes <= 64)
      launch_all<2>(a, stream);
    else if (a.planes <= 96)
      launch_all<3>(a, stream);
    else if (a.planes <= 128)
      launch_all<4>(a, stream);
    else
      launch_all<8>(a, stream);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("match_sgm", TORCH_BOX(&match_sgm<CudaAggregate>)); }

}  // namespace fl::match
