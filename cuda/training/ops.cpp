// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the training operators. ops.py documents every argument.
#include "core/registration.h"

FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "ssim(Tensor image, Tensor target, Tensor? mask, bool channels_last, bool valid, "
      "bool with_gradient) -> (Tensor ssim, Tensor gradient)");
  m.def(
      "image_loss(Tensor image, Tensor target, Tensor? mask, bool channels_last, bool valid, "
      "float ssim_weight, bool with_gradient) -> "
      "(Tensor loss, Tensor l1, Tensor ssim, Tensor gradient)");
  m.def(
      "fused_adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
      "Tensor(c!)[] exp_avg_sqs, float[] learning_rates, float beta1, float beta2, float eps, "
      "int step, Tensor? visible) -> ()");
  m.def(
      "splat_noise_(Tensor(a!) means, Tensor quats, Tensor log_scales, Tensor opacity_logits, "
      "float strength, int seed, int step) -> ()");
}
