// SPDX-License-Identifier: Apache-2.0
//
// Compositing on the CPU: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/composite_entry.h"
#include "volume/schedule_cpu.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("volume_composite", TORCH_BOX(&volume_composite<CpuBackend>));
  m.impl("volume_composite_backward", TORCH_BOX(&volume_composite_backward<CpuBackend>));
  m.impl("volume_visibility", TORCH_BOX(&volume_visibility<CpuBackend>));
}

}  // namespace fl::volume
