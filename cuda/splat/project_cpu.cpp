// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the projection: threads over Gaussians, each Gaussian over its cameras, so that a
// Gaussian's gradient is summed by one thread in camera order. Camera gradients are summed over
// fixed chunks of Gaussians and then over chunks: the same result at any thread count.
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/project_entry.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 2048;

template <typename T>
std::vector<CameraView<T>> load_cameras(const ProjectArgs<T>& a) {
  std::vector<CameraView<T>> views(a.B * a.C);
  for (size_t i = 0; i < views.size(); ++i)
    views[i] = load_camera(a.viewmats + 16 * i, a.Ks + 9 * i);
  return views;
}

template <typename T>
void project(const ProjectArgs<T>& a, const ProjectOutputs<T>& out) {
  const std::vector<CameraView<T>> views = load_cameras(a);
  parallel_for(0, a.B * a.N, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / a.N, n = i % a.N;
      const Sym3<T> sigma = load_covariance(a, i);
      const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
      const T opacity = a.opacities ? a.opacities[i] : T(1);
      for (int64_t c = 0; c < a.C; ++c) {
        const Projected<T> p = project_splat(mean, sigma, opacity, views[b * a.C + c], a.settings,
                                             a.compensate, a.opacities != nullptr);
        store_projected(p, (b * a.C + c) * a.N + n, a.compensate, out);
      }
    }
  });
}

template <typename T>
void project_backward(const ProjectArgs<T>& a, const ProjectGradients<T>& g, bool needs_cameras) {
  const int64_t total = a.B * a.N, chunks = (total + kChunk - 1) / kChunk;
  const int64_t stride = kCameraValues * a.B * a.C;
  std::vector<T> sums(needs_cameras ? chunks * stride : 0, T(0));
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      T* chunk_sums = sums.data() + chunk * stride;
      const int64_t last = std::min(total, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < last; ++i)
        project_one_backward(a, g, i, [&](int64_t view, const ProjectGradient<T>& in) {
          if (needs_cameras) add_camera_gradient(in, chunk_sums + kCameraValues * view);
        });
    }
  });
  if (!needs_cameras || chunks == 0) return;
  for (int64_t chunk = 1; chunk < chunks; ++chunk)
    for (int64_t k = 0; k < stride; ++k) sums[k] += sums[chunk * stride + k];
  for (int64_t view = 0; view < a.B * a.C; ++view)
    store_camera_gradient(sums.data() + kCameraValues * view, g.viewmats + 16 * view,
                          g.Ks + 9 * view);
}

struct CpuProject {
  template <typename T>
  static void forward(const ProjectArgs<T>& args, const ProjectOutputs<T>& out, const Tensor&) {
    project(args, out);
  }
  template <typename T>
  static void backward(const ProjectArgs<T>& args, const ProjectGradients<T>& gradients,
                       bool needs_cameras, const Tensor&) {
    project_backward(args, gradients, needs_cameras);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_project", TORCH_BOX(&splat_project<CpuProject>));
  m.impl("splat_project_backward", TORCH_BOX(&splat_project_backward<CpuProject>));
}

}  // namespace fl::splat
