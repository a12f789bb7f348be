// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the voxels around points: threads over points.
#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/trilinear_entry.h"

namespace fl::sparse {
namespace {

struct CpuTrilinear {
  template <typename Work>
  static void each(int64_t n, const Tensor&, const Work& work) {
    parallel_for(0, n, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t point = begin; point < end; ++point) work(point);
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_corners", TORCH_BOX(&sparse_corners<CpuTrilinear>));
  m.impl("sparse_corner_weights", TORCH_BOX(&sparse_corner_weights<CpuTrilinear>));
  m.impl("sparse_corner_weights_backward",
         TORCH_BOX(&sparse_corner_weights_backward<CpuTrilinear>));
}

}  // namespace fl::sparse
