// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of the projection: a thread a Gaussian, over its cameras. Camera gradients, when
// asked for, take a launch of their own: a block sums 256 Gaussians for one camera.
#include "core/device_guard.h"
#include "core/portable.h"
#include "core/registration.h"
#include "splat/block_sums.h"
#include "splat/project_entry.h"

namespace fl::splat {
namespace {

constexpr int kThreads = 128;

template <typename T>
FL_KERNEL project_kernel(ProjectArgs<T> a, ProjectOutputs<T> out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.B * a.N) return;
  const int64_t b = i / a.N, n = i % a.N;
  const Sym3<T> sigma = load_covariance(a, i);
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  const T opacity = a.opacities != nullptr ? a.opacities[i] : T(1);
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t view = b * a.C + c;
    const Projected<T> p =
        project_splat(mean, sigma, opacity, load_camera(a.viewmats + 16 * view, a.Ks + 9 * view),
                      a.settings, a.compensate, a.opacities != nullptr);
    store_projected(p, view * a.N + n, a.compensate, out);
  }
}

template <typename T>
FL_KERNEL project_backward_kernel(ProjectArgs<T> a, ProjectGradients<T> g) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.B * a.N) return;
  project_one_backward(a, g, i, [](int64_t, const ProjectGradient<T>&) {});
}

// rows [views, blocks, kCameraValues]; blockIdx.y is the view.
template <typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kSumThreads, 1)
    camera_backward_kernel(ProjectArgs<T> a, ProjectGradients<T> g, T* rows) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t view = blockIdx.y, o = view * a.N + n, i = view / a.C * a.N + n;
  T values[kCameraValues] = {};
  if (n < a.N && g.radii[2 * o] > 0 && g.radii[2 * o + 1] > 0) {
    const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
    add_camera_gradient(project_splat_vjp(mean, load_covariance(a, i),
                                          load_camera(a.viewmats + 16 * view, a.Ks + 9 * view),
                                          a.settings, a.compensate, g.of_output(o)),
                        values);
  }
  block_sum<T, kCameraValues>(values, rows + (view * gridDim.x + blockIdx.x) * kCameraValues);
}

template <typename T>
FL_KERNEL store_cameras_kernel(const T* sums, int64_t views, T* viewmats, T* Ks) {
  const int64_t view = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (view < views)
    store_camera_gradient(sums + kCameraValues * view, viewmats + 16 * view, Ks + 9 * view);
}

template <typename T>
void camera_backward(const ProjectArgs<T>& args, const ProjectGradients<T>& g, const Tensor& like,
                     Stream stream) {
  const int64_t views = args.B * args.C, blocks = (args.N + kSumThreads - 1) / kSumThreads;
  if (views == 0 || blocks == 0) return;
  STD_TORCH_CHECK(views < 65536,
                  "splat_project_backward: viewmats: expected fewer than 65536, got ", views);
  const Tensor rows = new_empty(like, {views, blocks, kCameraValues});
  const Tensor sums = new_empty(like, {views, kCameraValues});
  FL_LAUNCH((camera_backward_kernel<T>),
            dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(views)), kSumThreads, 0,
            stream, args, g, output<T>(rows));
  FL_LAUNCH((add_block_sums_kernel<T, kCameraValues>), views, kSumThreads, 0, stream,
            input<T>(rows), blocks, output<T>(sums));
  FL_LAUNCH((store_cameras_kernel<T>), (views + kThreads - 1) / kThreads, kThreads, 0, stream,
            input<T>(sums), views, g.viewmats, g.Ks);
}

struct CudaProject {
  template <typename T>
  static void forward(const ProjectArgs<T>& args, const ProjectOutputs<T>& out,
                      const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    FL_LAUNCH((project_kernel<T>), (args.B * args.N + kThreads - 1) / kThreads, kThreads, 0,
              current_stream(like.get_device_index()), args, out);
  }

  template <typename T>
  static void backward(const ProjectArgs<T>& args, const ProjectGradients<T>& gradients,
                       bool needs_cameras, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    FL_LAUNCH((project_backward_kernel<T>), (args.B * args.N + kThreads - 1) / kThreads, kThreads,
              0, stream, args, gradients);
    if (needs_cameras) camera_backward(args, gradients, like, stream);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("splat_project", TORCH_BOX(&splat_project<CudaProject>));
  m.impl("splat_project_backward", TORCH_BOX(&splat_project_backward<CudaProject>));
}

}  // namespace fl::splat
