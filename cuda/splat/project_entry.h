// SPDX-License-Identifier: Apache-2.0
//
// The projection operators as torch sees them: checks, outputs and types, with the work left to a
// Backend, CPU or CUDA; and what both backends do for one Gaussian.
#pragma once

#include <tuple>

#include "core/check.h"
#include "splat/project.h"

namespace fl::splat {

struct ProjectSizes {
  int64_t B, N, C;
};

template <typename T>
struct ProjectArgs {
  const T *means, *covars, *quats, *scales, *opacities, *viewmats, *Ks;
  int64_t B, N, C;
  ProjectSettings<T> settings;
  bool compensate;
};

inline ProjectSizes check_project(const Tensor& means, const std::optional<Tensor>& covars,
                                  const std::optional<Tensor>& quats,
                                  const std::optional<Tensor>& scales,
                                  const std::optional<Tensor>& opacities, const Tensor& viewmats,
                                  const Tensor& Ks, int64_t width, int64_t height,
                                  int64_t camera_model, const char* op) {
  check_float(means, op, "means");
  STD_TORCH_CHECK(means.dim() == 3, op, ": means: expected shape [B, N, 3], got ",
                  shape_text(means));
  const int64_t B = means.size(0), N = means.size(1);
  STD_TORCH_CHECK(viewmats.dim() == 4, op, ": viewmats: expected shape [B, C, 4, 4], got ",
                  shape_text(viewmats));
  const int64_t C = viewmats.size(1);
  check_shape(means, {B, N, 3}, op, "means");
  check_shape(viewmats, {B, C, 4, 4}, op, "viewmats");
  check_shape(Ks, {B, C, 3, 3}, op, "Ks");
  const auto same = [&](const Tensor& tensor, const char* name) {
    check_dtype(tensor, means.scalar_type(), op, name);
    check_same_device(tensor, means, op, name);
  };
  same(viewmats, "viewmats");
  same(Ks, "Ks");
  STD_TORCH_CHECK(covars.has_value() || (quats.has_value() && scales.has_value()), op,
                  ": covars: expected covars, or quats and scales");
  if (covars.has_value()) {
    check_shape(*covars, {B, N, 6}, op, "covars");
    same(*covars, "covars");
  } else {
    check_shape(*quats, {B, N, 4}, op, "quats");
    check_shape(*scales, {B, N, 3}, op, "scales");
    same(*quats, "quats");
    same(*scales, "scales");
  }
  if (opacities.has_value()) {
    check_shape(*opacities, {B, N}, op, "opacities");
    same(*opacities, "opacities");
  }
  check_image_size(width, height, op);
  STD_TORCH_CHECK(camera_model >= 0 && camera_model <= 2, op,
                  ": camera_model: expected 0 (pinhole), 1 (ortho) or 2 (fisheye), got ",
                  camera_model);
  return {B, N, C};
}

template <typename T>
ProjectSettings<T> project_settings(int64_t width, int64_t height, double eps2d, double near_plane,
                                    double far_plane, double radius_clip, int64_t camera_model) {
  return {static_cast<int>(width),
          static_cast<int>(height),
          static_cast<T>(eps2d),
          static_cast<T>(near_plane),
          static_cast<T>(far_plane),
          static_cast<T>(radius_clip),
          static_cast<CameraModel>(camera_model)};
}

template <typename T>
struct ProjectOutputs {
  int32_t* radii;
  T *means2d, *depths, *conics, *compensations;
};

template <typename T>
struct ProjectGradients {
  const int32_t* radii;
  const T *means2d, *depths, *conics, *compensations;  // of the outputs; null: zeros
  T *means, *covars, *quats, *scales, *viewmats, *Ks;  // of the inputs

  static FL_HD T at(const T* values, int64_t i) { return values != nullptr ? values[i] : T(0); }
  FL_HD ProjectedGradient<T> of_output(int64_t o) const {
    return {at(means2d, 2 * o),    at(means2d, 2 * o + 1), at(depths, o),       at(conics, 3 * o),
            at(conics, 3 * o + 1), at(conics, 3 * o + 2),  at(compensations, o)};
  }
};

template <typename T>
FL_HD Sym3<T> load_covariance(const ProjectArgs<T>& a, int64_t i) {
  if (a.covars != nullptr) {
    const T* c = a.covars + 6 * i;
    return {c[0], c[1], c[2], c[3], c[4], c[5]};
  }
  const T *q = a.quats + 4 * i, *s = a.scales + 3 * i;
  return covariance(Quaternion<T>{q[0], q[1], q[2], q[3]}, Vec3<T>{s[0], s[1], s[2]});
}

template <typename T>
FL_HD void store_projected(const Projected<T>& p, int64_t o, bool compensate,
                           const ProjectOutputs<T>& out) {
  out.radii[2 * o] = p.radius_x;
  out.radii[2 * o + 1] = p.radius_y;
  out.means2d[2 * o] = p.x;
  out.means2d[2 * o + 1] = p.y;
  out.depths[o] = p.depth;
  out.conics[3 * o] = p.A;
  out.conics[3 * o + 1] = p.B;
  out.conics[3 * o + 2] = p.C;
  if (compensate) out.compensations[o] = p.compensation;
}

// Twelve entries of a view matrix and fx, fy, cx, cy.
constexpr int kCameraValues = 16;

template <typename T>
FL_HD void add_camera_gradient(const ProjectGradient<T>& g, T* sum) {
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
FL_HD void store_camera_gradient(const T* sum, T* viewmat, T* K) {
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 3; ++c) viewmat[4 * r + c] = sum[3 * r + c];
    viewmat[4 * r + 3] = sum[9 + r];
  }
  K[0] = sum[12];
  K[4] = sum[13];
  K[2] = sum[14];
  K[5] = sum[15];
}

// One Gaussian's gradient, summed over its cameras. camera(view, gradient) receives what each
// camera that sees it adds to that camera's own gradient.
template <typename T, typename Camera>
FL_HD void project_one_backward(const ProjectArgs<T>& a, const ProjectGradients<T>& g, int64_t i,
                                const Camera& camera) {
  const int64_t b = i / a.N, n = i % a.N;
  const Vec3<T> mean{a.means[3 * i], a.means[3 * i + 1], a.means[3 * i + 2]};
  Vec3<T> g_mean{T(0), T(0), T(0)};
  Sym3<T> g_sigma{T(0), T(0), T(0), T(0), T(0), T(0)}, sigma{};
  bool seen = false;
  for (int64_t c = 0; c < a.C; ++c) {
    const int64_t view = b * a.C + c, o = view * a.N + n;
    if (g.radii[2 * o] <= 0 || g.radii[2 * o + 1] <= 0) continue;
    if (!seen) sigma = load_covariance(a, i);
    seen = true;
    const ProjectGradient<T> in =
        project_splat_vjp(mean, sigma, load_camera(a.viewmats + 16 * view, a.Ks + 9 * view),
                          a.settings, a.compensate, g.of_output(o));
    g_mean = g_mean + in.mean;
    g_sigma = {g_sigma.xx + in.sigma.xx, g_sigma.xy + in.sigma.xy, g_sigma.xz + in.sigma.xz,
               g_sigma.yy + in.sigma.yy, g_sigma.yz + in.sigma.yz, g_sigma.zz + in.sigma.zz};
    camera(view, in);
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
  const T quat[4] = {g_q.w, g_q.x, g_q.y, g_q.z};
  for (int k = 0; k < 4; ++k) g.quats[4 * i + k] = quat[k];
  g.scales[3 * i] = g_s.x;
  g.scales[3 * i + 1] = g_s.y;
  g.scales[3 * i + 2] = g_s.z;
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> splat_project(
    Tensor means, std::optional<Tensor> covars, std::optional<Tensor> quats,
    std::optional<Tensor> scales, std::optional<Tensor> opacities, Tensor viewmats, Tensor Ks,
    int64_t width, int64_t height, double eps2d, double near_plane, double far_plane,
    double radius_clip, int64_t camera_model, bool compensate) {
  if (means.dim() == 2) {  // one scene, without its dimension
    const auto [radii, means2d, depths, conics, compensations] =
        splat_project<Backend>(lift(means), lift(covars), lift(quats), lift(scales),
                               lift(opacities), lift(viewmats), lift(Ks), width, height, eps2d,
                               near_plane, far_plane, radius_clip, camera_model, compensate);
    return {drop(radii), drop(means2d), drop(depths), drop(conics), drop(compensations)};
  }
  const auto [B, N, C] = check_project(means, covars, quats, scales, opacities, viewmats, Ks, width,
                                       height, camera_model, "splat_project");
  dense_all(means, viewmats, Ks);
  dense_all(covars, quats, scales, opacities);
  Tensor radii = new_empty(means, {B, C, N, 2}, ScalarType::Int);
  Tensor means2d = new_empty(means, {B, C, N, 2}), depths = new_empty(means, {B, C, N});
  Tensor conics = new_empty(means, {B, C, N, 3});
  Tensor compensations = compensate ? new_empty(means, {B, C, N}) : new_empty(means, {0});
  dispatch_float(means, [&, B = B, N = N, C = C](auto zero) {
    using T = decltype(zero);
    const ProjectArgs<T> args{
        input<T>(means),
        optional_input<T>(covars),
        optional_input<T>(quats),
        optional_input<T>(scales),
        optional_input<T>(opacities),
        input<T>(viewmats),
        input<T>(Ks),
        B,
        N,
        C,
        project_settings<T>(width, height, eps2d, near_plane, far_plane, radius_clip, camera_model),
        compensate};
    Backend::forward(
        args,
        ProjectOutputs<T>{output<int32_t>(radii), output<T>(means2d), output<T>(depths),
                          output<T>(conics), output<T>(compensations)},
        means);
  });
  return {radii, means2d, depths, conics, compensations};
}

template <typename Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> splat_project_backward(
    Tensor means, std::optional<Tensor> covars, std::optional<Tensor> quats,
    std::optional<Tensor> scales, Tensor viewmats, Tensor Ks, int64_t width, int64_t height,
    double eps2d, int64_t camera_model, bool compensate, bool needs_cameras, Tensor radii,
    std::optional<Tensor> g_means2d, std::optional<Tensor> g_depths, std::optional<Tensor> g_conics,
    std::optional<Tensor> g_compensations) {
  const char* op = "splat_project_backward";
  if (means.dim() == 2) {
    const auto [m, c, q, s, v, k] = splat_project_backward<Backend>(
        lift(means), lift(covars), lift(quats), lift(scales), lift(viewmats), lift(Ks), width,
        height, eps2d, camera_model, compensate, needs_cameras, lift(radii), lift(g_means2d),
        lift(g_depths), lift(g_conics), compensate ? lift(g_compensations) : std::nullopt);
    return {drop(m), drop(c), drop(q), drop(s), drop(v), drop(k)};
  }
  const auto [B, N, C] = check_project(means, covars, quats, scales, std::nullopt, viewmats, Ks,
                                       width, height, camera_model, op);
  check_shape(radii, {B, C, N, 2}, op, "radii");
  check_dtype(radii, ScalarType::Int, op, "radii");
  if (g_means2d.has_value()) check_shape(*g_means2d, {B, C, N, 2}, op, "g_means2d");
  if (g_depths.has_value()) check_shape(*g_depths, {B, C, N}, op, "g_depths");
  if (g_conics.has_value()) check_shape(*g_conics, {B, C, N, 3}, op, "g_conics");
  if (!compensate) g_compensations.reset();
  if (g_compensations.has_value()) check_shape(*g_compensations, {B, C, N}, op, "g_compensations");
  dense_all(means, viewmats, Ks, radii);
  dense_all(covars, quats, scales, g_means2d, g_depths, g_conics, g_compensations);
  const bool from_covars = covars.has_value();
  Tensor g_means = new_empty(means, {B, N, 3});
  Tensor g_covars = new_empty(means, {from_covars ? B : 0, N, 6});
  Tensor g_quats = new_empty(means, {from_covars ? 0 : B, N, 4});
  Tensor g_scales = new_empty(means, {from_covars ? 0 : B, N, 3});
  const int64_t cameras = needs_cameras ? B : 0;
  Tensor g_viewmats = new_zeros(means, {cameras, C, 4, 4});
  Tensor g_Ks = new_zeros(means, {cameras, C, 3, 3});
  dispatch_float(means, [&, B = B, N = N, C = C](auto zero) {
    using T = decltype(zero);
    const ProjectArgs<T> args{input<T>(means),
                              optional_input<T>(covars),
                              optional_input<T>(quats),
                              optional_input<T>(scales),
                              nullptr,
                              input<T>(viewmats),
                              input<T>(Ks),
                              B,
                              N,
                              C,
                              project_settings<T>(width, height, eps2d, 0, 0, 0, camera_model),
                              compensate};
    const ProjectGradients<T> gradients{input<int32_t>(radii),
                                        optional_input<T>(g_means2d),
                                        optional_input<T>(g_depths),
                                        optional_input<T>(g_conics),
                                        optional_input<T>(g_compensations),
                                        output<T>(g_means),
                                        output<T>(g_covars),
                                        output<T>(g_quats),
                                        output<T>(g_scales),
                                        output<T>(g_viewmats),
                                        output<T>(g_Ks)};
    Backend::backward(args, gradients, needs_cameras, means);
  });
  return {g_means, g_covars, g_quats, g_scales, g_viewmats, g_Ks};
}

}  // namespace fl::splat
