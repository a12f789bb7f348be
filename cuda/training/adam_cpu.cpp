// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the optimiser step: all tensors cut into chunks of rows, chunks over threads.
// With a visibility mask, each run of visible rows is one span.
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "training/adam_args.h"
#include "training/adam_simd.h"

namespace fl::training {
namespace {

constexpr int64_t kChunkElements = 8192;

void run_span(const AdamSpan<float>& span) { FL_ISA_SELECT(adam_span_float)(span); }
void run_span(const AdamSpan<double>& span) { FL_ISA_SELECT(adam_span_double)(span); }

template <typename T>
void step_rows(const AdamTensor<T>& t, int64_t first, int64_t last) {
  const int64_t offset = first * t.width;
  run_span(AdamSpan<T>{t.parameter + offset, t.average + offset, t.square + offset,
                       t.gradient + offset, (last - first) * t.width, t.step});
}

template <typename T>
void step_visible(const AdamTensor<T>& t, const uint8_t* visible, int64_t first, int64_t last) {
  for (int64_t row = first; row < last;) {
    int64_t end = row;
    while (end < last && visible[end]) ++end;
    if (end > row) step_rows(t, row, end);
    row = end;
    while (row < last && !visible[row]) ++row;
  }
}

struct Chunk {
  size_t tensor;
  int64_t first, last;
};

template <typename T>
void step_all(std::vector<AdamTensor<T>> tensors, const uint8_t* visible) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < tensors.size(); ++i) {
    AdamTensor<T>& t = tensors[i];
    if (t.width == 0) continue;
    if (visible == nullptr) {
      t.rows *= t.width;
      t.width = 1;
    }
    const int64_t rows = std::max<int64_t>(1, kChunkElements / t.width);
    for (int64_t first = 0; first < t.rows; first += rows)
      chunks.push_back({i, first, std::min(first + rows, t.rows)});
  }
  parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Chunk& chunk = chunks[c];
      if (visible != nullptr)
        step_visible(tensors[chunk.tensor], visible, chunk.first, chunk.last);
      else
        step_rows(tensors[chunk.tensor], chunk.first, chunk.last);
    }
  });
}

void fused_adam_cpu(std::vector<Tensor> params, std::vector<Tensor> grads,
                    std::vector<Tensor> averages, std::vector<Tensor> squares,
                    std::vector<double> rates, double beta1, double beta2, double eps, int64_t step,
                    std::optional<Tensor> visible) {
  const AdamArgs args{params, grads, averages, squares, rates, beta1, beta2, eps, step, visible};
  check_adam(args);
  make_dense(visible);
  for (Tensor& gradient : grads) make_dense(gradient);
  std::vector<AdamTensor<float>> floats;
  std::vector<AdamTensor<double>> doubles;
  for (size_t i = 0; i < params.size(); ++i) {
    if (params[i].scalar_type() == ScalarType::Double)
      doubles.push_back(adam_tensor<double>(args, i, grads[i]));
    else
      floats.push_back(adam_tensor<float>(args, i, grads[i]));
  }
  step_all(std::move(floats), optional_input<uint8_t>(visible));
  step_all(std::move(doubles), optional_input<uint8_t>(visible));
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("fused_adam_", TORCH_BOX(&fused_adam_cpu)); }

}  // namespace fl::training
