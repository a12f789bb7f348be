// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the image loss: planes cut into bands of rows, bands over threads. Each row's sum
// is kept and added up in row order at the end, so the loss does not depend on the bands.
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "training/image_loss_args.h"
#include "training/image_loss_simd.h"

namespace fl::training {
namespace {

// Below this a band spends more on the twenty rows around it than on its own.
constexpr int64_t kLeastBandRows = 40;

void run_band(const LossBand<float>& band) { FL_ISA_SELECT(image_loss_band_float)(band); }
void run_band(const LossBand<double>& band) { FL_ISA_SELECT(image_loss_band_double)(band); }

struct Counts {
  int64_t l1, ssim;  // terms in each mean of one image
};

Counts count_terms(const ImageLayout& s, const uint8_t* mask) {
  const int64_t skip = s.valid ? kWindowRadius : 0;
  if (mask == nullptr)
    return {s.channels * s.height * s.width,
            s.channels * (s.height - 2 * skip) * (s.width - 2 * skip)};
  int64_t all = 0, inside = 0;
  for (int64_t y = 0; y < s.height; ++y) {
    const uint8_t* row = mask + y * s.width;
    for (int64_t x = 0; x < s.width; ++x) all += row[x] != 0;
    if (y < skip || y >= s.height - skip) continue;
    for (int64_t x = skip; x < s.width - skip; ++x) inside += row[x] != 0;
  }
  return {s.channels * all, s.channels * inside};
}

// Reciprocal, and 0 for an empty mean: an image that is masked out has loss 0.
double mean_scale(int64_t count) { return count > 0 ? 1.0 / static_cast<double>(count) : 0.0; }

template <typename T>
struct Scratch {
  explicit Scratch(int64_t values)
      : bytes((values * sizeof(T) + 63) / 64 * 64),
        data(static_cast<T*>(std::aligned_alloc(64, bytes))) {
    STD_TORCH_CHECK(data != nullptr, "image_loss: expected ", bytes, " bytes of free memory");
    std::memset(data, 0, bytes);
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  size_t bytes;
  T* data;
};

struct Images {
  const Tensor &image, &target;
  const std::optional<Tensor>& mask;
  const ImageLayout& layout;
};

// Sums of both terms for each image, and the gradient of the weighted loss.
template <typename T>
void sum_loss(const Images& in, LossWeights weights, T* gradient, std::vector<double>& l1,
              std::vector<double>& ssim) {
  const ImageLayout& s = in.layout;
  const int64_t per_image = s.planes_per_image(), plane = s.height * s.row;
  const uint8_t* mask = optional_input<uint8_t>(in.mask);
  const bool bytes = in.target.scalar_type() == ScalarType::Byte;
  const int64_t target_bytes = bytes ? 1 : sizeof(T);
  std::vector<Counts> counts(s.batch);
  for (int64_t b = 0; b < s.batch; ++b)
    counts[b] = count_terms(s, mask ? mask + b * s.height * s.width : nullptr);
  std::vector<double> row_sums(2 * s.planes * s.height);
  double *l1_sums = row_sums.data(), *ssim_sums = l1_sums + s.planes * s.height;

  const int64_t wanted = (2 * thread_count() + s.planes - 1) / s.planes;
  const int64_t bands =
      std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, s.height / kLeastBandRows));
  parallel_dynamic(s.planes * bands, [&](int64_t task, int64_t) {
    const int64_t p = task / bands, band = task % bands, b = p / per_image;
    Scratch<T> scratch(loss_band_scratch(s.row, s.tap));
    LossBand<T> args{};
    args.image = input<T>(in.image) + p * plane;
    args.target = static_cast<const char*>(in.target.const_data_ptr()) + p * plane * target_bytes;
    args.mask = mask ? mask + b * s.height * s.width : nullptr;
    args.gradient = gradient ? gradient + p * plane : nullptr;
    args.l1_sums = l1_sums + p * s.height;
    args.ssim_sums = ssim_sums + p * s.height;
    args.scratch = scratch.data;
    args.height = s.height;
    args.row = s.row;
    args.tap = s.tap;
    args.first = s.height * band / bands;
    args.last = s.height * (band + 1) / bands;
    args.l1_scale = static_cast<T>(weights.l1 * mean_scale(counts[b].l1));
    args.ssim_scale = static_cast<T>(weights.ssim * mean_scale(counts[b].ssim));
    args.bytes = bytes;
    args.valid = s.valid;
    run_band(args);
  });
  for (int64_t b = 0; b < s.batch; ++b) {
    double sums[2] = {0, 0};
    for (int64_t i = b * per_image * s.height; i < (b + 1) * per_image * s.height; ++i) {
      sums[0] += l1_sums[i];
      sums[1] += ssim_sums[i];
    }
    l1[b] = sums[0] * mean_scale(counts[b].l1);
    ssim[b] = counts[b].ssim > 0 ? sums[1] * mean_scale(counts[b].ssim) : 1.0;
  }
}

struct LossResult {
  Tensor l1, ssim, gradient;
};

LossResult evaluate(Tensor& image, Tensor& target, std::optional<Tensor>& mask, bool channels_last,
                    bool valid, LossWeights weights, bool with_gradient, const char* op) {
  const ImageLayout layout = check_images(image, target, mask, channels_last, valid, op);
  dense_all(image, target);
  make_dense(mask);
  Tensor gradient = with_gradient ? torch::stable::empty_like(image) : new_empty(image, {0});
  LossResult result{new_empty(image, {layout.batch}), new_empty(image, {layout.batch}), gradient};
  std::vector<double> l1(layout.batch, 0.0), ssim(layout.batch, 1.0);
  dispatch_float(image, [&](auto zero) {
    using T = decltype(zero);
    if (image.numel() > 0)
      sum_loss<T>({image, target, mask, layout}, weights,
                  with_gradient ? output<T>(gradient) : nullptr, l1, ssim);
    for (int64_t b = 0; b < layout.batch; ++b) {
      output<T>(result.l1)[b] = static_cast<T>(l1[b]);
      output<T>(result.ssim)[b] = static_cast<T>(ssim[b]);
    }
  });
  return result;
}

std::tuple<Tensor, Tensor> ssim_cpu(Tensor image, Tensor target, std::optional<Tensor> mask,
                                    bool channels_last, bool valid, bool with_gradient) {
  const LossResult r =
      evaluate(image, target, mask, channels_last, valid, {0.0, 1.0}, with_gradient, "ssim");
  return {r.ssim, r.gradient};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> image_loss_cpu(Tensor image, Tensor target,
                                                          std::optional<Tensor> mask,
                                                          bool channels_last, bool valid,
                                                          double ssim_weight, bool with_gradient) {
  const LossResult r = evaluate(image, target, mask, channels_last, valid,
                                {1.0 - ssim_weight, -ssim_weight}, with_gradient, "image_loss");
  Tensor loss = torch::stable::empty_like(r.l1);
  dispatch_float(image, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t b = 0; b < loss.size(0); ++b)
      output<T>(loss)[b] = static_cast<T>((1.0 - ssim_weight) * input<T>(r.l1)[b] +
                                          ssim_weight * (1.0 - input<T>(r.ssim)[b]));
  });
  return {loss, r.l1, r.ssim, r.gradient};
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("ssim", TORCH_BOX(&ssim_cpu));
  m.impl("image_loss", TORCH_BOX(&image_loss_cpu));
}

}  // namespace fl::training
