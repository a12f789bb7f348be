// SPDX-License-Identifier: Apache-2.0
//
// Sums along rays on CUDA: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/accumulate_entry.h"
#include "volume/schedule_cuda.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("volume_accumulate", TORCH_BOX(&volume_accumulate<CudaBackend>));
  m.impl("volume_accumulate_backward", TORCH_BOX(&volume_accumulate_backward<CudaBackend>));
}

}  // namespace fl::volume
