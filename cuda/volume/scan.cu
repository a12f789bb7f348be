// SPDX-License-Identifier: Apache-2.0
//
// Scans along rays on CUDA: every Work by the schedule of this folder.
#include "core/registration.h"
#include "volume/scan_entry.h"
#include "volume/schedule_cuda.h"

namespace fl::volume {

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("volume_scan", TORCH_BOX(&volume_scan<CudaBackend>));
  m.impl("volume_product_backward", TORCH_BOX(&volume_product_backward<CudaBackend>));
}

}  // namespace fl::volume
