// SPDX-License-Identifier: Apache-2.0
//
// Makes a tensor's GPU the current device for the length of a scope, so that a launch on a machine
// with several GPUs reaches the one that holds the data. Nothing to do in the emulated build.
#pragma once

#include "core/check.h"

#if defined(__CUDACC__)

#include <torch/csrc/stable/accelerator.h>

namespace fl {
using DeviceGuard = torch::stable::accelerator::DeviceGuard;
}  // namespace fl

#else

namespace fl {
struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};
}  // namespace fl

#endif
