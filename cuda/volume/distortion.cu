// SPDX-License-Identifier: Apache-2.0
//
// The distortion loss on CUDA: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/distortion_entry.h"
#include "volume/schedule_cuda.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("volume_distortion", TORCH_BOX(&volume_distortion<CudaBackend>));
  m.impl("volume_distortion_backward", TORCH_BOX(&volume_distortion_backward<CudaBackend>));
}

}  // namespace fl::volume
