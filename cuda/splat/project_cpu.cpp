// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the projection: threads over Gaussians, each Gaussian over its cameras, so that a
// Gaussian's gradient is summed by one thread in camera order. Camera gradients are summed over
// fixed chunks of Gaussians and then over chunks: the same result at any thread count.
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "splat/args.h"

namespace fl::splat {
namespace {

constexpr int64_t kChunk = 2048;

template <typename T>
Sym3<T> load_covariance(const ProjectArgs<T>& a, int64_t i) {
  if (a.covars != nullptr) {
    const T* c = a.covars + 6 * i;
    return {c[0], c[1], c[2], c[3], c[4], c[5]};
  }
  const T *q = a.quats + 4 * i, *s = a.scales + 3 * i;
  return covariance(Quaternion<T>{q[0], q[1], q[2], q[3]}, Vec3<T>{s[0], s[1], s[2]});
}

template <typename T>
std::vector<CameraView<T>> load_cameras(const ProjectArgs<T>& a) {
  std::vector<CameraView<T>> views(a.B * a.C);
  for (size_t i = 0; i < views.size(); ++i) views[i] = load_camera(a.viewmats + 16 * i, a.Ks + 9 * i);
  return views;
}

template <typename T>
void project(const ProjectArgs<T>& a, int32_t* radii, T* means2d, T* depths, T* conics,
             T* compensations) {
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
        const int64_t o = (b * a.C + c) * a.N + n;
        radii[2 * o] = p.radius_x;
        radii[2 * o + 1] = p.radius_y;
        means2d[2 * o] = p.x;
        means2d[2 * o + 1] = p.y;
        depths[o] = p.depth;
        conics[3 * o] = p.A;
        conics[3 * o + 1] = p.B;
        conics[3 * o + 2] = p.C;
        if (a.compensate) compensations[o] = p.compensation;
      }
    }
  });
}

template <typename T>
struct ProjectGradients {
  const int32_t* radii;
  const T *means2d, *depths, *conics, *compensations;       // of the outputs
  T *means, *covars, *quats, *scales, *viewmats, *Ks;  // of the inputs
};

// Twelve entries of a view matrix and fx, fy, cx, cy.
constexpr int kCameraValues = 16;

template <typename T>
void add_camera_gradient(const ProjectGradient<T>& g, T* sum) {
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) sum[3 * r + c] += g.rotation.m[r][c];
  sum[9] += g.translation.x;
  sum[10] += g.translation.y;
  sum[11] += g.translation.z;
  sum[12] += g.fx;
  sum[13] += g.fy;
  sum[14] += g.cx;
  sum[15] += g.cy;
}

template <typename T>
void store_camera_gradient(const T* sum, T* viewmat, T* K) {
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 3; ++c) viewmat[4 * r + c] = sum[3 * r + c];
    viewmat[4 * r + 3] = sum[9 + r];
  }
  K[0] = sum[12];
  K[4] = sum[13];
  K[2] = sum[14];
  K[5] = sum[15];
}

template <typename T>
void project_one_backward(const ProjectArgs<T>& a, const ProjectGradients<T>& g,
                          const std::vector<CameraView<T>>& views, int64_t i, T* camera_sums) {
  const int64_t b = i / a.N, n = i % a.N;
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  Vec3<T> g_mean{T(0), T(0), T(0)};
  Sym3<T> g_sigma{T(0), T(0), T(0), T(0), T(0), T(0)}, sigma{};
  bool seen = false;
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t o = (b * a.C + c) * a.N + n;
    if (g.radii[2 * o] <= 0 || g.radii[2 * o + 1] <= 0) continue;
    if (!seen) sigma = load_covariance(a, i);
    seen = true;
    const ProjectedGradient<T> out{g.means2d[2 * o],    g.means2d[2 * o + 1], g.depths[o],
                                   g.conics[3 * o],     g.conics[3 * o + 1],  g.conics[3 * o + 2],
                                   a.compensate ? g.compensations[o] : T(0)};
    const ProjectGradient<T> in =
        project_splat_vjp(mean, sigma, views[b * a.C + c], a.settings, a.compensate, out);
    g_mean = g_mean + in.mean;
    g_sigma = {g_sigma.xx + in.sigma.xx, g_sigma.xy + in.sigma.xy, g_sigma.xz + in.sigma.xz,
               g_sigma.yy + in.sigma.yy, g_sigma.yz + in.sigma.yz, g_sigma.zz + in.sigma.zz};
    if (camera_sums != nullptr)
      add_camera_gradient(in, camera_sums + kCameraValues * (b * a.C + c));
  }
  g.means[3 * i] = g_mean.x;
  g.means[3 * i + 1] = g_mean.y;
  g.means[3 * i + 2] = g_mean.z;
  if (a.covars != nullptr) {
    const T values[6] = {g_sigma.xx, g_sigma.xy, g_sigma.xz, g_sigma.yy, g_sigma.yz, g_sigma.zz};
    for (int k = 0; k < 6; ++k) g.covars[6 * i + k] = values[k];
    return;
  }
  Quaternion<T> g_q{T(0), T(0), T(0), T(0)};
  Vec3<T> g_s{T(0), T(0), T(0)};
  const T *q = a.quats + 4 * i, *s = a.scales + 3 * i;
  if (seen)
    covariance_vjp(Quaternion<T>{q[0], q[1], q[2], q[3]}, Vec3<T>{s[0], s[1], s[2]}, g_sigma, g_q,
                   g_s);
  const T values[7] = {g_q.w, g_q.x, g_q.y, g_q.z, g_s.x, g_s.y, g_s.z};
  for (int k = 0; k < 4; ++k) g.quats[4 * i + k] = values[k];
  for (int k = 0; k < 3; ++k) g.scales[3 * i + k] = values[4 + k];
}

template <typename T>
void project_backward(const ProjectArgs<T>& a, const ProjectGradients<T>& g, bool needs_cameras) {
  const std::vector<CameraView<T>> views = load_cameras(a);
  const int64_t total = a.B * a.N, chunks = (total + kChunk - 1) / kChunk;
  const int64_t stride = kCameraValues * a.B * a.C;
  std::vector<T> sums(needs_cameras ? chunks * stride : 0, T(0));
  parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      T* chunk_sums = needs_cameras ? sums.data() + chunk * stride : nullptr;
      const int64_t last = std::min(total, (chunk + 1) * kChunk);
      for (int64_t i = chunk * kChunk; i < last; ++i)
        project_one_backward(a, g, views, i, chunk_sums);
    }
  });
  if (!needs_cameras || chunks == 0) return;
  for (int64_t chunk = 1; chunk < chunks; ++chunk)
    for (int64_t k = 0; k < stride; ++k) sums[k] += sums[chunk * stride + k];
  for (int64_t view = 0; view < a.B * a.C; ++view)
    store_camera_gradient(sums.data() + kCameraValues * view, g.viewmats + 16 * view,
                          g.Ks + 9 * view);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> splat_project_cpu(
    Tensor means, std::optional<Tensor> covars, std::optional<Tensor> quats,
    std::optional<Tensor> scales, std::optional<Tensor> opacities, Tensor viewmats, Tensor Ks,
    int64_t width, int64_t height, double eps2d, double near_plane, double far_plane,
    double radius_clip, int64_t camera_model, bool compensate) {
  const auto [B, N, C] = check_project(means, covars, quats, scales, opacities, viewmats, Ks, width,
                                       height, camera_model, "splat_project");
  dense_all(means, viewmats, Ks);
  dense_all(covars, quats, scales, opacities);
  Tensor radii = new_empty(means, {B, C, N, 2}, ScalarType::Int);
  Tensor means2d = new_empty(means, {B, C, N, 2}), depths = new_empty(means, {B, C, N});
  Tensor conics = new_empty(means, {B, C, N, 3});
  Tensor compensations = compensate ? new_empty(means, {B, C, N}) : new_empty(means, {0});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    const ProjectArgs<T> args{
        input<T>(means), optional_input<T>(covars), optional_input<T>(quats),
        optional_input<T>(scales), optional_input<T>(opacities), input<T>(viewmats), input<T>(Ks),
        B, N, C,
        project_settings<T>(width, height, eps2d, near_plane, far_plane, radius_clip, camera_model),
        compensate};
    project(args, output<int32_t>(radii), output<T>(means2d), output<T>(depths), output<T>(conics),
            output<T>(compensations));
  });
  return {radii, means2d, depths, conics, compensations};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> splat_project_backward_cpu(
    Tensor means, std::optional<Tensor> covars, std::optional<Tensor> quats,
    std::optional<Tensor> scales, Tensor viewmats, Tensor Ks, int64_t width, int64_t height,
    double eps2d, int64_t camera_model, bool compensate, bool needs_cameras, Tensor radii,
    Tensor g_means2d, Tensor g_depths, Tensor g_conics, Tensor g_compensations) {
  const char* op = "splat_project_backward";
  const auto [B, N, C] = check_project(means, covars, quats, scales, std::nullopt, viewmats, Ks,
                                       width, height, camera_model, op);
  check_shape(radii, {B, C, N, 2}, op, "radii");
  check_dtype(radii, ScalarType::Int, op, "radii");
  check_shape(g_means2d, {B, C, N, 2}, op, "g_means2d");
  check_shape(g_depths, {B, C, N}, op, "g_depths");
  check_shape(g_conics, {B, C, N, 3}, op, "g_conics");
  if (compensate) check_shape(g_compensations, {B, C, N}, op, "g_compensations");
  dense_all(means, viewmats, Ks, radii, g_means2d, g_depths, g_conics, g_compensations);
  dense_all(covars, quats, scales);
  const bool from_covars = covars.has_value();
  Tensor g_means = new_empty(means, {B, N, 3});
  Tensor g_covars = new_empty(means, {from_covars ? B : 0, N, 6});
  Tensor g_quats = new_empty(means, {from_covars ? 0 : B, N, 4});
  Tensor g_scales = new_empty(means, {from_covars ? 0 : B, N, 3});
  Tensor g_viewmats = new_zeros(means, {B, C, 4, 4}), g_Ks = new_zeros(means, {B, C, 3, 3});
  dispatch_float(means, [&](auto zero) {
    using T = decltype(zero);
    const ProjectArgs<T> args{
        input<T>(means), optional_input<T>(covars), optional_input<T>(quats),
        optional_input<T>(scales), nullptr, input<T>(viewmats), input<T>(Ks), B, N, C,
        project_settings<T>(width, height, eps2d, 0, 0, 0, camera_model), compensate};
    const ProjectGradients<T> gradients{
        input<int32_t>(radii), input<T>(g_means2d), input<T>(g_depths), input<T>(g_conics),
        input<T>(g_compensations), output<T>(g_means), output<T>(g_covars), output<T>(g_quats),
        output<T>(g_scales), output<T>(g_viewmats), output<T>(g_Ks)};
    project_backward(args, gradients, needs_cameras);
  });
  return {g_means, g_covars, g_quats, g_scales, g_viewmats, g_Ks};
}

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_project", TORCH_BOX(&splat_project_cpu));
  m.impl("splat_project_backward", TORCH_BOX(&splat_project_backward_cpu));
}

}  // namespace fl::splat
