// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of sampling: threads over points; the gradient to values over ranges of values, each
// with its contributions in the order of the points.
#include <vector>

#include "core/registration.h"
#include "core/sort_scan_cpu.h"
#include "vdb/grid_sample_entry.h"

namespace fl::vdb {
namespace {

constexpr int64_t kGrain = 512;
constexpr int kRangeBits = 10;

// Contributions to values, 8 a point, brought together by ranges of values: one pass of a sort.
template <typename T>
struct Contributions {
  std::vector<uint64_t> values, sorted_values;    // whose value; n_values for none
  std::vector<uint64_t> sources, sorted_sources;  // 8 * point + corner
  int shift;

  explicit Contributions(const SampleArgs<T>& a)
      : values(8 * a.n), sorted_values(8 * a.n), sources(8 * a.n), sorted_sources(8 * a.n) {
    parallel_for(0, a.n, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Cell<T> cell = find_cell(a.m, a.leaf_offsets, a.level, a.points + 3 * i);
        for (int64_t c = 0; c < 8; ++c) {
          const bool stored = cell.index[c] >= 0 && cell.index[c] < a.n_values;
          values[8 * i + c] = static_cast<uint64_t>(stored ? cell.index[c] : a.n_values);
          sources[8 * i + c] = static_cast<uint64_t>(8 * i + c);
        }
      }
    });
    const int bits = value_bits(a.n_values);
    shift = std::max(0, bits - kRangeBits);
    cpu::sort_pairs(values.data(), sorted_values.data(), sources.data(), sorted_sources.data(),
                    8 * a.n, shift, bits);
  }
};

template <typename T>
void add_contribution(const SampleArgs<T>& a, const T* gradient, uint64_t value, uint64_t source,
                      T* g_values) {
  const int64_t i = static_cast<int64_t>(source / 8);
  // The weight alone is needed, and it comes from the point alone.
  Cell<T> cell;
  for (int d = 0; d < 3; ++d) {
    const T x = a.points[3 * i + d] - T(0.5);
    cell.fraction[d] = x - std::floor(x);
  }
  const T weight = cell.weight(static_cast<int>(source % 8));
  for (int64_t c = 0; c < a.channels; ++c)
    g_values[value * a.channels + c] += weight * gradient[i * a.channels + c];
}

struct CpuSample {
  template <typename T>
  static void forward(const SampleArgs<T>& a, T* out, const Tensor&) {
    parallel_for(0, a.n, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sample_point(a, i, out);
    });
  }

  template <typename T>
  static void points(const SampleArgs<T>& a, const T* gradient, T* g_points, const Tensor&) {
    parallel_for(0, a.n, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sample_point_vjp(a, gradient, i, g_points);
    });
  }

  template <typename T>
  static void values(const SampleArgs<T>& a, const T* gradient, T* g_values, const Tensor&) {
    std::fill(g_values, g_values + a.n_values * a.channels, T(0));
    const Contributions<T> all(a);
    const auto& sorted = all.sorted_values;
    const auto range_begin = [&](uint64_t range) {
      return std::lower_bound(sorted.begin(), sorted.end(), range,
                              [&](uint64_t value, uint64_t r) { return value >> all.shift < r; }) -
             sorted.begin();
    };
    const int64_t ranges = (a.n_values >> all.shift) + 1;
    parallel_dynamic(ranges, [&](int64_t range, int64_t) {
      const int64_t end = range_begin(range + 1);
      for (int64_t k = range_begin(range); k < end; ++k)
        if (sorted[k] != static_cast<uint64_t>(a.n_values))
          add_contribution(a, gradient, sorted[k], all.sorted_sources[k], g_values);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_sample", TORCH_BOX(&vdb_sample<CpuSample>));
  m.impl("vdb_sample_backward", TORCH_BOX(&vdb_sample_backward<CpuSample>));
}

}  // namespace fl::vdb
