// SPDX-License-Identifier: Apache-2.0
//
// Sums along rays on the CPU: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/accumulate_entry.h"
#include "volume/schedule_cpu.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("volume_accumulate", TORCH_BOX(&volume_accumulate<CpuBackend>));
  m.impl("volume_accumulate_backward", TORCH_BOX(&volume_accumulate_backward<CpuBackend>));
}

}  // namespace fl::volume
