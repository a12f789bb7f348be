// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of sampling: a thread walks a ray, once, and keeps what it finds as runs; a warp
// then writes out the samples of 32 rays, neighbours side by side. The host waits once, for the
// number of samples.
//
//   walk     a thread a ray, the table of tops in shared memory where it fits: the number of its
//            samples, and the first of its runs, slot by slot so that neighbours store together
//   scan     of the numbers: where each ray's samples begin; the total sets out for the host
//   expand   a warp lists the runs of its rays in shared memory, and each lane finds the run of
//            every 32nd sample by bisection
//   again    a ray of more runs than slots is walked once more by its thread, as are all rays of a
//            cone, whose samples are no runs; only launched where there are any
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "vdb/walk_entry.h"

namespace fl::vdb {
namespace {

constexpr int kWalkThreads = 64;  // few: a chunk of 8,192 rays shall reach every multiprocessor
constexpr int kExpandThreads = 128;
// A warp expands 32, 16 or 8 rays, of so many runs each that its list is this long; and walks fewer
// rays than it has lanes where there are too few to fill the multiprocessors.
constexpr int kListed = 512;
constexpr int64_t kFewRays = 16384, kSomeRays = 65536, kManyRays = 1 << 20;
constexpr int64_t kSharedTops = 1024;
constexpr unsigned kFullWarp = 0xffffffffu;

// What the walk of a ray leaves behind.
struct Slots {
  float *start, *inc;  // [room, n]
  int32_t* count;      // [room, n]
  int32_t* runs;       // [n]; room + 1: more than there are slots
  int64_t n;
  int room;
};

struct SlotSink {
  Slots slots;
  int64_t ray, samples, limit;
  int runs;

  FL_HD bool push(const Run& run) {
    if (runs < slots.room) {
      const int64_t at = runs * slots.n + ray;
      slots.start[at] = run.start;
      slots.inc[at] = run.inc;
      slots.count[at] = run.count;
    }
    runs = lesser(runs + 1, slots.room + 1);
    samples += run.count;
    return samples <= limit;
  }
};

struct CountSink {
  int64_t samples, limit;

  FL_HD bool push(const Run& run) {
    samples += run.count;
    return samples <= limit;
  }
};

struct SampleTarget {
  int64_t* ray_indices;
  float *t_starts, *t_ends;
};

struct StoreSink {
  SampleTarget out;
  int64_t ray, at;

  FL_HD bool push(const Run& run) {
    for (int j = 0; j < run.count; ++j, ++at) {
      const float start = rounded_add(run.start, rounded_mul(static_cast<float>(j), run.inc));
      out.ray_indices[at] = ray;
      out.t_starts[at] = start;
      out.t_ends[at] = rounded_add(start, run.dt);
    }
    return true;
  }
};

template <bool kDense, typename Sink>
FL_HD void walk_constant(const RaySampleArgs& a, const WalkGrid& grid, const Ray& ray, Sink& sink) {
  const float dt = a.sampling.step;
  PartVisitorOfWarps<ComputedSteps, Sink> visitor{
      {steps_from(ray.near, dt), 0, dt, rounded_mul(dt, 0.5f), {}},
      &sink,
      false,
      0.0f,
      0.0f,
      0,
      {},
      {}};
  visit_ray<kDense ? Way::dense : Way::flat>(grid, ray, visitor);
}

template <bool kDense, bool kEveryCell, typename Sink>
FL_HD void walk_cone(const RaySampleArgs& a, const WalkGrid& grid, const Ray& ray, Sink& sink) {
  ConeVisitor<kEveryCell, Sink> visitor{a.sampling, &sink, ray.near, false};
  visit_ray<kDense ? Way::dense : Way::flat>(grid, ray, visitor);
}

enum class Mode { constant, exact_cone, fast_cone };

template <bool kDense, Mode kMode, typename Sink>
FL_HD void walk_ray(const RaySampleArgs& a, const WalkGrid& grid, const Ray& ray, Sink& sink) {
  if (kMode == Mode::constant)
    walk_constant<kDense>(a, grid, ray, sink);
  else
    walk_cone<kDense, kDense || kMode == Mode::exact_cone>(a, grid, ray, sink);
}

// Shared copies of what every ray reads first.
FL_D void share_tops(WalkGrid& grid, Node* shared, int64_t tops) {
  for (int64_t i = threadIdx.x; i < tops; i += blockDim.x) shared[i] = grid.masks.tops[i];
  __syncthreads();
  grid.masks.tops = shared;
}

// `bad` grows to 1 + n - (index of the first bad ray); the boxes count as ray n.
FL_D void report(unsigned long long* bad, int64_t n, int64_t index) {
  atomicMax(bad, static_cast<unsigned long long>(1 + n - index));
}

template <bool kDense, Mode kMode>
FL_KERNEL FL_LAUNCH_BOUNDS(kWalkThreads, 8)
    walk_kernel(RaySampleArgs a, Slots slots, int64_t* counts, unsigned long long* bad,
                unsigned long long* again, int64_t shared_tops, int width) {
  FL_DYNAMIC_SHARED(Node, shared);
  WalkGrid grid = a.grid;
  if (shared_tops > 0) share_tops(grid, &shared[0], shared_tops);
  const int lane = threadIdx.x % 32;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kWalkThreads + threadIdx.x) / 32;
  const int64_t i = warp * width + lane;
  if (lane >= width || i >= a.rays.count) return;
  int64_t samples = 0;
  int runs = 0;
  const bool good_boxes = are_boxes(grid.boxes, grid.masks.levels), good = a.rays.good(i);
  if (!good_boxes || !good) {
    report(bad, a.rays.count, good_boxes ? i : a.rays.count);
  } else if (kMode == Mode::constant) {
    SlotSink sink{slots, i, 0, a.limit, 0};
    walk_ray<kDense, kMode>(a, grid, a.rays.at(i), sink);
    samples = sink.samples;
    runs = sink.runs;
  } else {
    CountSink sink{0, a.limit};
    walk_ray<kDense, kMode>(a, grid, a.rays.at(i), sink);
    samples = sink.samples;
    runs = samples > 0 ? slots.room + 1 : 0;
  }
  counts[i] = samples;
  slots.runs[i] = runs;
  if (runs > slots.room) *again = 1;  // all that write, write the same
}

// Sums over a warp of what the lanes before have, and of all.
FL_D int64_t warp_sum_before(int64_t own, int64_t& total) {
  const int lane = threadIdx.x % 32;
  int64_t sum = own;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int64_t other = __shfl_up_sync(kFullWarp, static_cast<long long>(sum), distance);
    if (lane >= distance) sum += other;
  }
  total = __shfl_sync(kFullWarp, static_cast<long long>(sum), 31);
  return sum - own;
}

// A run of the list of a warp; `offset` counts samples from the first of the warp's.
struct ListedRun {
  int64_t offset;
  float start, inc;  // inc < 0: these samples are somebody else's to write
};

FL_KERNEL FL_LAUNCH_BOUNDS(kExpandThreads, 6)
    expand_kernel(Slots slots, float dt, const int64_t* counts, const int64_t* starts,
                  SampleTarget out, int64_t* packed, int width) {
  constexpr int kWarps = kExpandThreads / 32;
  FL_SHARED_2D(ListedRun, listed, kWarps, kListed);
  FL_SHARED_2D(uint8_t, owners, kWarps, kListed);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_ray = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * width;
  const int64_t ray = first_ray + lane;
  const bool mine = lane < width && ray < slots.n;
  const int64_t count = mine ? counts[ray] : 0;
  const int runs = mine ? slots.runs[ray] : 0;
  if (mine) {
    packed[2 * ray] = starts[ray];
    packed[2 * ray + 1] = count;
  }
  const bool again = runs > slots.room;
  int64_t total = 0, total_runs = 0;
  const int64_t before = warp_sum_before(count, total);
  int place = static_cast<int>(warp_sum_before(again ? 1 : runs, total_runs));
  if (total == 0) return;
  int64_t offset = before;
  for (int k = 0; k < (again ? 1 : runs); ++k, ++place) {
    const int64_t at = k * slots.n + ray;
    listed[warp][place] =
        again ? ListedRun{offset, 0.0f, -1.0f} : ListedRun{offset, slots.start[at], slots.inc[at]};
    owners[warp][place] = static_cast<uint8_t>(lane);
    if (!again) offset += slots.count[at];
  }
  __syncwarp();
  const int64_t first = starts[first_ray];
  for (int64_t i = lane; i < total; i += 32) {
    int low = 0, high = static_cast<int>(total_runs);
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (listed[warp][middle].offset <= i)
        low = middle;
      else
        high = middle;
    }
    const ListedRun run = listed[warp][low];
    if (run.inc < 0.0f) continue;
    const float j = static_cast<float>(static_cast<int>(i - run.offset));
    const float start = rounded_add(run.start, rounded_mul(j, run.inc));
    out.ray_indices[first + i] = first_ray + owners[warp][low];
    out.t_starts[first + i] = start;
    out.t_ends[first + i] = rounded_add(start, dt);
  }
}

template <bool kDense, Mode kMode>
FL_KERNEL FL_LAUNCH_BOUNDS(kWalkThreads, 8)
    again_kernel(RaySampleArgs a, Slots slots, const int64_t* starts, SampleTarget out) {
  const int64_t ray = static_cast<int64_t>(blockIdx.x) * kWalkThreads + threadIdx.x;
  if (ray >= a.rays.count || slots.runs[ray] <= slots.room) return;
  StoreSink sink{out, ray, starts[ray]};
  walk_ray<kDense, kMode>(a, a.grid, a.rays.at(ray), sink);
}

struct CudaSample {
  static void run(const RaySampleArgs& a, const Tensor& like, Samples& out, const char* op) {
    const bool cone = a.sampling.cone_angle > 0.0f;
    if (a.grid.cells != nullptr)
      cone ? run_mode<true, Mode::exact_cone>(a, like, out, op)
           : run_mode<true, Mode::constant>(a, like, out, op);
    else if (!cone)
      run_mode<false, Mode::constant>(a, like, out, op);
    else if (a.exact)
      run_mode<false, Mode::exact_cone>(a, like, out, op);
    else
      run_mode<false, Mode::fast_cone>(a, like, out, op);
  }

  template <bool kDense, Mode kMode>
  static void run_mode(const RaySampleArgs& a, const Tensor& like, Samples& out, const char* op) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = a.rays.count;
    const int width = n <= kFewRays ? 8 : n <= kManyRays ? 16 : 32;
    const int room = kListed / width;
    const int64_t slots_kept = kMode == Mode::constant ? room * n : 0;
    const Scratch floats(2 * sizeof(float) * slots_kept), kept(sizeof(int32_t) * slots_kept);
    const Scratch runs(sizeof(int32_t) * n), counts(sizeof(int64_t) * n);
    // Starts, their end, what is bad, whether any ray is walked again.
    const Scratch places(sizeof(int64_t) * (n + 3));
    const Slots slots{floats.data<float>(),
                      floats.data<float>() + slots_kept,
                      kept.data<int32_t>(),
                      runs.data<int32_t>(),
                      n,
                      room};
    int64_t* starts = places.data<int64_t>();
    int64_t* count = counts.data<int64_t>();
    zero_async(starts, sizeof(int64_t), stream);
    zero_async(starts + n, 3 * sizeof(int64_t), stream);
    const int64_t tops = top_count(a.grid.masks);
    const int64_t shared = !kDense && tops <= kSharedTops ? tops : 0;
    const int walked = n <= kFewRays ? 8 : n <= kSomeRays ? 16 : 32;
    FL_LAUNCH((walk_kernel<kDense, kMode>), blocks_of(n, walked, kWalkThreads), kWalkThreads,
              sizeof(Node) * shared, stream, a, slots, count,
              reinterpret_cast<unsigned long long*>(starts + n + 1),
              reinterpret_cast<unsigned long long*>(starts + n + 2), shared, walked);
    inclusive_scan(count, starts + 1, n, stream);
    int64_t found[3] = {0, 0, 0};
    PendingRead total(starts + n, sizeof(found), stream);
    total.wait(found);
    check_good(found[1] == 0 ? kAllGood : 1 + n - found[1], n, op);
    check_limit(found[0], a.limit, op);
    out.allocate(like, found[0]);
    const SampleTarget target{output<int64_t>(out.ray_indices), output<float>(out.t_starts),
                              output<float>(out.t_ends)};
    FL_LAUNCH(expand_kernel, blocks_of(n, width, kExpandThreads), kExpandThreads, 0, stream, slots,
              a.sampling.step, count, starts, target, output<int64_t>(out.packed_info), width);
    if (found[2] != 0)
      FL_LAUNCH((again_kernel<kDense, kMode>), (n + kWalkThreads - 1) / kWalkThreads, kWalkThreads,
                0, stream, a, slots, starts, target);
  }

  // For warps of so many rays.
  static int64_t blocks_of(int64_t rays, int width, int threads) {
    return ((rays + width - 1) / width * 32 + threads - 1) / threads;
  }
  static int64_t top_count(const Masks& m) {
    return static_cast<int64_t>(m.levels) * m.top_count[0] * m.top_count[1] * m.top_count[2];
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("vdb_ray_samples", TORCH_BOX(&vdb_ray_samples<CudaSample>));
  m.impl("vdb_ray_samples_dense", TORCH_BOX(&vdb_ray_samples_dense<CudaSample>));
}

}  // namespace fl::vdb
