// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the optimiser step: one launch for up to eight tensors, their chunks side by
// side in the grid.
#include <algorithm>
#include <vector>

#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "training/adam_args.h"

namespace fl::training {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;
constexpr int64_t kChunk = kThreads * kPerThread;
constexpr int kTensors = 8;

template <typename T>
struct AdamBatch {
  AdamTensor<T> tensors[kTensors];
  int64_t first_block[kTensors + 1];
  int count;
};

template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 4) adam_kernel(AdamBatch<T> batch, const uint8_t* visible) {
  const int64_t block = blockIdx.x;
  int which = 0;
  while (block >= batch.first_block[which + 1]) ++which;
  const AdamTensor<T>& t = batch.tensors[which];
  const int64_t count = t.rows * t.width;
  const int64_t first = (block - batch.first_block[which]) * kChunk + threadIdx.x;
  FL_UNROLL
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= count || (visible != nullptr && !visible[i / t.width])) continue;
    T parameter = t.parameter[i], average = t.average[i], square = t.square[i];
    adam_element(t.step, t.gradient[i], parameter, average, square);
    t.parameter[i] = parameter;
    t.average[i] = average;
    t.square[i] = square;
  }
}

template <typename T>
void step_all(const std::vector<AdamTensor<T>>& tensors, const uint8_t* visible, Stream stream) {
  for (size_t begin = 0; begin < tensors.size(); begin += kTensors) {
    AdamBatch<T> batch{};
    batch.count = static_cast<int>(std::min<size_t>(kTensors, tensors.size() - begin));
    for (int i = 0; i < batch.count; ++i) {
      const AdamTensor<T>& t = tensors[begin + i];
      batch.tensors[i] = t;
      batch.first_block[i + 1] = batch.first_block[i] + (t.rows * t.width + kChunk - 1) / kChunk;
    }
    FL_LAUNCH((adam_kernel<T>), batch.first_block[batch.count], kThreads, 0, stream, batch,
              visible);
  }
}

void fused_adam_cuda(std::vector<Tensor> params, std::vector<Tensor> grads,
                     std::vector<Tensor> averages, std::vector<Tensor> squares,
                     std::vector<double> rates, double beta1, double beta2, double eps,
                     int64_t step, std::optional<Tensor> visible) {
  const AdamArgs args{params, grads, averages, squares, rates, beta1, beta2, eps, step, visible};
  check_adam(args);
  if (params.empty()) return;
  make_dense(visible);
  for (Tensor& gradient : grads) make_dense(gradient);
  const DeviceGuard guard(params[0].get_device_index());
  const Stream stream = current_stream(params[0].get_device_index());
  std::vector<AdamTensor<float>> floats;
  std::vector<AdamTensor<double>> doubles;
  for (size_t i = 0; i < params.size(); ++i) {
    if (params[i].numel() == 0) continue;
    if (params[i].scalar_type() == ScalarType::Double)
      doubles.push_back(adam_tensor<double>(args, i, grads[i]));
    else
      floats.push_back(adam_tensor<float>(args, i, grads[i]));
  }
  step_all(floats, optional_input<uint8_t>(visible), stream);
  step_all(doubles, optional_input<uint8_t>(visible), stream);
}

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("fused_adam_", TORCH_BOX(&fused_adam_cuda)); }

}  // namespace fl::training
