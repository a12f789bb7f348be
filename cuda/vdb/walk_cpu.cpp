// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of sampling: threads over groups of rays, one walk. What a walk finds is kept as
// runs, a few bytes for dozens of samples; when all are counted the outputs are allocated and the
// runs written out. The sequence of a near plane's steps is computed once for all rays that share
// the plane.
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "vdb/walk_entry.h"
#include "vdb/walk_small_cpu.h"

namespace fl::vdb {
namespace {

constexpr int64_t kGroup = kRaysAtOnce;

// The parts of one near plane's steps, as far as anybody has asked.
class StepTable {
 public:
  void start(float near, float dt) {
    if (!parts_.empty() && float_bits(near) == float_bits(near_)) return;
    near_ = near;
    hint_ = 0;
    parts_.assign(1, steps_from(near, dt));
  }
  // The part where a ray begins to look: the last one's, or, where that lies beyond, the first.
  const Progression& first(float time, float half) {
    if (hint_ >= parts_.size() || !(rounded_add(parts_[hint_].base, half) < time)) hint_ = 0;
    at_ = hint_;
    return parts_[at_];
  }
  const Progression& after(float dt) {
    if (at_ + 1 == parts_.size()) {
      const Progression& p = parts_[at_];
      parts_.push_back(steps_from(rounded_add(p.at(p.last), dt), dt));
    }
    return parts_[++at_];
  }
  void remember() { hint_ = at_; }

 private:
  std::vector<Progression> parts_;
  std::size_t at_ = 0, hint_ = 0;
  float near_ = 0.0f;
};

struct TableSteps {
  StepTable* table;
  const Progression& operator()(const Progression&, float dt) const { return table->after(dt); }
};

// The runs that one thread found.
struct RunSink {
  std::vector<Run> runs;
  int64_t samples = 0, limit = 0;

  bool push(const Run& run) {
    runs.push_back(run);
    samples += run.count;
    return samples <= limit;
  }
};

// The occupied parts of a ray through one level, to be turned into runs when the walk is done: the
// walk then has no branch for where a part begins or ends, and the searches do not wait for it.
template <typename Finish>
struct PartVisitor {
  static constexpr bool kEveryCell = false, kFullLeaves = true;
  static constexpr int kMost = 64;

  explicit PartVisitor(const Finish& finish) : finish_parts(finish) {}

  const Finish& finish_parts;
  float begun = 0.0f, until = 0.0f;
  int inside = 0, count = 0;
  Part parts[kMost];

  bool begin(float time, float) {
    until = time;
    return true;
  }
  bool occupied(float exit) {
    begun = inside ? begun : until;
    inside = 1;
    until = exit;
    return true;
  }
  bool empty(float exit) {
    parts[count] = {begun, until};
    count += inside;
    inside = 0;
    until = exit;
    return count < kMost || flush();
  }
  bool flush() {
    const bool more = finish_parts(parts, count);
    count = 0;
    return more;
  }
  void finish() {
    empty(until);
    flush();
  }
};

// Where the active voxels of a grid lie, with a margin. A ray that misses it has no samples, and
// one that leaves it has no more: most rays of a picture never walk. Nothing else changes, as the
// margin is far wider than what rounding makes of rays that begin nearby; others are not asked.
class Bounds {
 public:
  Bounds() = default;
  explicit Bounds(const WalkGrid& grid) {
    int low[3], high[3];
    if (grid.masks.levels != 1 || !find(grid.masks, low, high)) return;
    const float* box = grid.boxes;
    float least = kFarAway, far = 0.0f;
    for (int a = 0; a < 3; ++a) {
      least = std::min(least, box[3 + a] - box[a]);
      far = std::max({far, std::abs(box[a]), std::abs(box[3 + a])});
    }
    reach_ = kReach * least;
    known_ = far <= reach_;
    for (int a = 0; a < 3; ++a) {
      const double n = grid.masks.resolution[a], edge = double(box[3 + a]) - box[a];
      const double margin = std::max(edge / n, edge * kMargin);
      box_[a] = static_cast<float>(box[a] + low[a] * edge / n - margin);
      box_[3 + a] = static_cast<float>(box[a] + high[a] * edge / n + margin);
    }
  }

  // False if the ray misses; otherwise it may end where it leaves.
  bool clip(Ray& ray) const {
    if (!known_) return true;
    for (int a = 0; a < 3; ++a)
      if (!(std::abs(ray.origin[a]) <= reach_)) return true;
    float enter, leave;
    if (!intersect(ray, box_, enter, leave)) return false;
    ray.far = lesser(ray.far, leave);
    return true;
  }

 private:
  // Edges of the box, the shortest: 2^12 steps of 2^-24 at this distance are less than the margin.
  static constexpr float kReach = 8.0f;
  static constexpr double kMargin = 1.0 / 256;

  // The blocks of 16^3 that hold anything, from the first voxel to past the last.
  static bool find(const Masks& m, int* low, int* high) {
    bool any = false;
    for (int x = 0; x < m.top_count[0]; ++x)
      for (int y = 0; y < m.top_count[1]; ++y)
        for (int z = 0; z < m.top_count[2]; ++z)
          for (uint64_t left = m.tops[top_index(m, 0, x << 6, y << 6, z << 6)].mask; left != 0;
               left &= left - 1) {
            const int bit = __builtin_ctzll(left);
            const int corner[3] = {x << 6 | bit >> 4 << 4, y << 6 | (bit >> 2 & 3) << 4,
                                   z << 6 | (bit & 3) << 4};
            for (int a = 0; a < 3; ++a) {
              low[a] = any ? std::min(low[a], corner[a]) : corner[a];
              high[a] = any ? std::max(high[a], corner[a] + 16) : corner[a] + 16;
            }
            any = true;
          }
    return any;
  }

  bool known_ = false;
  float reach_ = 0.0f;
  float box_[6] = {};
};

struct Worker {
  RunSink sink;
  StepTable steps;
  GroupParts parts;
};

// What became of a group of rays.
struct Group {
  int64_t worker, first_run, samples, bad;
};

template <bool kDense>
void walk_ray(const RaySampleArgs& a, const Ray& ray, Worker& worker) {
  const float dt = a.sampling.step;
  if (a.sampling.cone_angle > 0.0f) {
    if (kDense || a.exact) {
      ConeVisitor<true, RunSink> visitor{a.sampling, &worker.sink, ray.near, false};
      visit_ray<kDense ? Way::dense : Way::nested>(a.grid, ray, visitor);
    } else {
      ConeVisitor<false, RunSink> visitor{a.sampling, &worker.sink, ray.near, false};
      visit_ray<kDense ? Way::dense : Way::nested>(a.grid, ray, visitor);
    }
    return;
  }
  const float half = rounded_mul(dt, 0.5f);
  worker.steps.start(ray.near, dt);
  Steps<TableSteps> steps{{}, 0, dt, half, {&worker.steps}};
  // Measured: among nested blocks, the few parts are better turned into runs as they end.
  if (a.grid.masks.levels > 1 || !kDense) {
    float enter, leave;
    const bool hit = a.grid.masks.levels == 1 && intersect(ray, a.grid.boxes, enter, leave);
    steps.part = worker.steps.first(hit ? enter : ray.near, half);
    if (hit) {
      steps.seek(enter);
      worker.steps.remember();
    }
    RunVisitor<TableSteps, RunSink> visitor{steps, &worker.sink, false, 0.0f, 0.0f};
    visit_ray<kDense ? Way::dense : Way::nested>(a.grid, ray, visitor);
    return;
  }
  bool begun = false;
  const auto finish = [&](const auto* parts, int count) {
    for (int k = 0; k < count; ++k) {
      if (!begun) steps.part = worker.steps.first(parts[k].begin, half);
      begun = true;
      steps.seek(parts[k].begin);
      if (k == 0) worker.steps.remember();
      if (!steps.emit(parts[k].end, worker.sink)) return false;
    }
    return true;
  };
  PartVisitor<decltype(finish)> visitor(finish);
  visit_ray<kDense ? Way::dense : Way::nested>(a.grid, ray, visitor);
}

template <bool kDense>
Group walk_group(const RaySampleArgs& a, const Bounds& bounds, int64_t begin, int64_t end,
                 Worker& worker, int64_t* packed, int32_t* runs_per_ray) {
  RunSink& sink = worker.sink;
  Group group{0, static_cast<int64_t>(sink.runs.size()), 0, kAllGood};
  for (int64_t i = begin; i < end; ++i) {
    const std::size_t runs = sink.runs.size();
    sink.samples = 0;
    if (a.rays.good(i)) {
      Ray ray = a.rays.at(i);
      if (kDense || bounds.clip(ray)) walk_ray<kDense>(a, ray, worker);
    } else {
      group.bad = std::min(group.bad, i);
    }
    packed[2 * i + 1] = sink.samples;
    runs_per_ray[i] = static_cast<int32_t>(sink.runs.size() - runs);
    group.samples += sink.samples;
  }
  return group;
}

// The samples of a ray's parts.
void push_parts(const Part* parts, int count, const Steps<TableSteps>& start, Worker& worker) {
  Steps<TableSteps> steps = start;
  steps.part = worker.steps.first(parts[0].begin, steps.half);
  for (int k = 0; k < count; ++k) {
    steps.seek(parts[k].begin);
    if (k == 0) worker.steps.remember();
    if (!steps.emit(parts[k].end, worker.sink)) return;
  }
}

Group walk_cells(const RaySampleArgs& a, const CellGrid& grid, int64_t begin, int64_t end,
                 Worker& worker, int64_t* packed, int32_t* runs_per_ray) {
  RunSink& sink = worker.sink;
  const int64_t bad =
      FL_ISA_SELECT(find_parts)(grid, a.rays, begin, end, worker.parts.target(grid));
  Group group{0, static_cast<int64_t>(sink.runs.size()), 0, bad < end ? bad : kAllGood};
  const float dt = a.sampling.step, half = rounded_mul(dt, 0.5f);
  for (int64_t i = begin; i < end; ++i) {
    const std::size_t runs = sink.runs.size();
    sink.samples = 0;
    const auto [parts, count] = worker.parts.of_ray(i - begin);
    if (count > 0) {
      worker.steps.start(size_of(a.rays.near[i]) < kSmallestNormal ? 0.0f : a.rays.near[i], dt);
      push_parts(parts, count, {{}, 0, dt, half, {&worker.steps}}, worker);
    }
    packed[2 * i + 1] = sink.samples;
    runs_per_ray[i] = static_cast<int32_t>(sink.runs.size() - runs);
    group.samples += sink.samples;
  }
  return group;
}

// Touching fresh memory for the first time costs more than writing it, page by ordinary page.
void ask_for_large_pages(const Tensor& tensor, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
  const std::uintptr_t first = (begin + page - 1) / page * page,
                       last = (begin + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

struct CpuSample {
  static void run(const RaySampleArgs& a, const Tensor& like, Samples& out, const char* op) {
    const int64_t n = a.rays.count, n_groups = (n + kGroup - 1) / kGroup;
    const bool boxes_good = are_boxes(a.grid.boxes, a.grid.masks.levels);
    check_good(boxes_good ? kAllGood : n, n, op);
    std::vector<Worker> workers(thread_count());
    for (Worker& worker : workers) worker.sink.limit = a.limit;
    std::vector<Group> groups(n_groups);
    const std::unique_ptr<int32_t[]> runs_per_ray(new int32_t[n]);
    int64_t* packed = output<int64_t>(out.packed_info);
    const bool small_enough = a.grid.masks.levels == 1 && !(a.sampling.cone_angle > 0.0f);
    const SmallGrid small = small_enough ? SmallGrid(a.grid, a.grid.boxes, n) : SmallGrid();
    const bool dense = a.grid.cells != nullptr;
    const Bounds bounds = dense || !small.empty() ? Bounds() : Bounds(a.grid);
    parallel_dynamic(n_groups, [&](int64_t g, int64_t w) {
      const int64_t begin = g * kGroup, end = std::min(n, begin + kGroup);
      groups[g] =
          !small.empty()
              ? walk_cells(a, small.grid, begin, end, workers[w], packed, runs_per_ray.get())
              : (dense ? walk_group<true> : walk_group<false>)(a, bounds, begin, end, workers[w],
                                                               packed, runs_per_ray.get());
      groups[g].worker = w;
    });
    int64_t total = 0, bad = kAllGood;
    for (const Group& group : groups) {
      bad = std::min(bad, group.bad);
      total += group.samples;
    }
    check_good(bad, n, op);
    check_limit(total, a.limit, op);
    out.allocate(like, total);
    ask_for_large_pages(out.ray_indices, total * sizeof(int64_t));
    ask_for_large_pages(out.t_starts, total * sizeof(float));
    ask_for_large_pages(out.t_ends, total * sizeof(float));
    write(workers, groups, n, runs_per_ray.get(), packed, out);
  }

  static void write(const std::vector<Worker>& workers, const std::vector<Group>& groups, int64_t n,
                    const int32_t* runs_per_ray, int64_t* packed, const Samples& out) {
    const int64_t n_groups = static_cast<int64_t>(groups.size());
    std::vector<int64_t> firsts(n_groups);
    for (int64_t g = 1; g < n_groups; ++g) firsts[g] = firsts[g - 1] + groups[g - 1].samples;
    const RunTarget all{output<int64_t>(out.ray_indices), output<float>(out.t_starts),
                        output<float>(out.t_ends)};
    parallel_for(0, n_groups, 1, [&](int64_t first_group, int64_t last_group) {
      for (int64_t g = first_group; g < last_group; ++g) {
        const int64_t begin = g * kGroup, end = std::min(n, begin + kGroup);
        int64_t first = firsts[g];
        for (int64_t i = begin; i < end; ++i) {
          packed[2 * i] = first;
          first += packed[2 * i + 1];
        }
        if (groups[g].samples == 0) continue;
        const Run* runs = workers[groups[g].worker].sink.runs.data() + groups[g].first_run;
        const RunTarget target{all.ray_indices + firsts[g], all.t_starts + firsts[g],
                               all.t_ends + firsts[g]};
        FL_ISA_SELECT(expand_runs)(runs, runs_per_ray + begin, begin, end - begin, target);
      }
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_ray_samples", TORCH_BOX(&vdb_ray_samples<CpuSample>));
  m.impl("vdb_ray_samples_dense", TORCH_BOX(&vdb_ray_samples_dense<CpuSample>));
}

}  // namespace fl::vdb
