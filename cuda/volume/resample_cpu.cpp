// SPDX-License-Identifier: Apache-2.0
//
// Resampling and searches along rays on the CPU: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/resample_entry.h"
#include "volume/schedule_cpu.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("volume_resample", TORCH_BOX(&volume_resample<CpuBackend>));
  m.impl("volume_searchsorted", TORCH_BOX(&volume_searchsorted<CpuBackend>));
}

}  // namespace fl::volume
