// SPDX-License-Identifier: Apache-2.0
//
// The distortion loss on the CPU: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/distortion_entry.h"
#include "volume/schedule_cpu.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("volume_distortion", TORCH_BOX(&volume_distortion<CpuBackend>));
  m.impl("volume_distortion_backward", TORCH_BOX(&volume_distortion_backward<CpuBackend>));
}

}  // namespace fl::volume
