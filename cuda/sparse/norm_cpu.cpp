// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of batch normalisation: threads over parts of the rows, of a size that depends on
// nothing, so that sums are joined in the same order by any number of threads.
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/norm_entry.h"
#include "sparse/norm_simd.h"

namespace fl::sparse {
namespace {

constexpr int64_t kPartRows = 512;

// A list of values for every channel, and another, for each part of the rows.
template <typename S>
class Parts {
 public:
  Parts(int64_t n, int64_t channels)
      : n_(n),
        channels_(channels),
        count_((n + kPartRows - 1) / kPartRows),
        values_(2 * count_ * channels) {}

  int64_t count() const { return count_; }
  int64_t begin(int64_t part) const { return part * kPartRows; }
  int64_t end(int64_t part) const { return std::min(n_, begin(part + 1)); }
  int64_t rows(int64_t part) const { return end(part) - begin(part); }
  PartSums<S> operator[](int64_t part) {
    S* const first = values_.data() + 2 * part * channels_;
    return {first, first + channels_};
  }

 private:
  int64_t n_, channels_, count_;
  std::vector<S> values_;
};

template <typename S>
std::vector<S> scratch_rows(int64_t channels) {
  return std::vector<S>(kNormScratch * padded<S>(channels));
}

template <typename S>
class ChannelValues {
 public:
  template <typename T>
  explicit ChannelValues(const NormArgs<T>& a) : stride_(a.channels), values_(5 * stride_) {
    for (int64_t c = 0; c < a.channels; ++c) {
      const ChannelScale<S> scale = a.scale_of(c);
      list(0)[c] = scale.mean, list(1)[c] = scale.scale, list(2)[c] = scale.shift;
    }
  }
  template <typename T>
  void set_gradient(const NormGradientArgs<T>& a) {
    for (int64_t c = 0; c < a.forward.channels; ++c) {
      const ChannelGradient<S> gradient = a.gradient_of(c);
      list(3)[c] = gradient.offset, list(4)[c] = gradient.slope;
    }
  }
  ChannelLists<S> lists() { return {list(0), list(1), list(2), list(3), list(4)}; }

 private:
  S* list(int64_t which) { return values_.data() + which * stride_; }

  int64_t stride_;
  std::vector<S> values_;
};

template <typename S, typename F>
void each_part(Parts<S>& parts, int64_t channels, const F& f) {
  parallel_for(0, parts.count(), 1, [&](int64_t first, int64_t last) {
    std::vector<S> scratch = scratch_rows<S>(channels);
    for (int64_t part = first; part < last; ++part)
      f(parts.begin(part), parts.end(part), parts[part], scratch.data());
  });
}

struct CpuNorm {
  template <typename T>
  static void statistics(const StatisticsArgs<T>& a, const Tensor&) {
    using S = Sum<T>;
    Parts<S> parts(a.n, a.channels);
    each_part(parts, a.channels, [&](int64_t begin, int64_t end, PartSums<S> part, S* scratch) {
      FL_ISA_SELECT(reduce_moments<T>)(a, begin, end, part, scratch);
    });
    const S share = a.running.mean == nullptr ? S(0) : a.running.share();
    for (int64_t c = 0; c < a.channels; ++c) {
      Moments<S> all{parts[0].first[c], parts[0].second[c]};
      for (int64_t part = 1; part < parts.count(); ++part)
        join(all, {parts[part].first[c], parts[part].second[c]},
             JoinWeights<S>(parts.begin(part), parts.rows(part)));
      a.store(c, all, share);
    }
    if (a.running.tracked != nullptr) ++*a.running.tracked;
  }

  template <typename T>
  static void forward(const NormArgs<T>& a, T* out, const Tensor&) {
    using S = Sum<T>;
    ChannelValues<S> values(a);
    parallel_for(0, a.n, kPartRows, [&](int64_t begin, int64_t end) {
      std::vector<S> scratch = scratch_rows<S>(a.channels);
      FL_ISA_SELECT(normalise_rows<T>)(a, values.lists(), out, begin, end, scratch.data());
    });
  }

  template <typename T>
  static void backward(const NormGradientArgs<T>& a, const Tensor&) {
    using S = Sum<T>;
    const int64_t n = a.forward.n, channels = a.forward.channels;
    ChannelValues<S> values(a.forward);
    Parts<S> parts(n, channels);
    each_part(parts, channels, [&](int64_t begin, int64_t end, PartSums<S> part, S* scratch) {
      FL_ISA_SELECT(reduce_gradients<T>)(a, values.lists(), begin, end, part, scratch);
    });
    for (int64_t c = 0; c < channels; ++c) {
      S sum = S(0), products = S(0);
      for (int64_t part = 0; part < parts.count(); ++part)
        sum += parts[part].first[c], products += parts[part].second[c];
      a.store_sums(c, sum, products);
    }
    values.set_gradient(a);
    const NormGradientArgs<T> next = a.from_gradient_of_z();
    parallel_for(0, n, kPartRows, [&](int64_t begin, int64_t end) {
      std::vector<S> scratch = scratch_rows<S>(channels);
      FL_ISA_SELECT(gradient_rows<T>)(next, values.lists(), begin, end, scratch.data());
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_batch_statistics", TORCH_BOX(&sparse_batch_statistics<CpuNorm>));
  m.impl("sparse_batch_norm", TORCH_BOX(&sparse_batch_norm<CpuNorm>));
  m.impl("sparse_batch_norm_training", TORCH_BOX(&sparse_batch_norm_training<CpuNorm>));
  m.impl("sparse_batch_norm_backward", TORCH_BOX(&sparse_batch_norm_backward<CpuNorm>));
}

}  // namespace fl::sparse
