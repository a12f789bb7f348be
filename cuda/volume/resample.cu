// SPDX-License-Identifier: Apache-2.0
//
// Resampling and searches along rays on CUDA: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/resample_entry.h"
#include "volume/schedule_cuda.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("volume_resample", TORCH_BOX(&volume_resample<CudaBackend>));
  m.impl("volume_searchsorted", TORCH_BOX(&volume_searchsorted<CudaBackend>));
}

}  // namespace fl::volume
