// SPDX-License-Identifier: Apache-2.0
//
// Compositing on CUDA: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/composite_entry.h"
#include "volume/schedule_cuda.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("volume_composite", TORCH_BOX(&volume_composite<CudaBackend>));
  m.impl("volume_composite_backward", TORCH_BOX(&volume_composite_backward<CudaBackend>));
  m.impl("volume_visibility", TORCH_BOX(&volume_visibility<CudaBackend>));
}

}  // namespace fl::volume
