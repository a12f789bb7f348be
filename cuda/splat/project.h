// SPDX-License-Identifier: Apache-2.0
//
// One Gaussian seen by one camera: mean and covariance projected to the image (EWA splatting,
// Zwicker et al. 2001, in the form of Kerbl et al. 2023 and gsplat), and the gradient of that.
//
//   p = R x + t                      camera space
//   J = d(pixel) / d(p)              at p clamped to the image plus 15 % (pinhole)
//   cov2d = J R S R^T J^T + eps2d I
//   conic = cov2d^-1 as (A, B, C):   sigma(d) = (A dx^2 + C dy^2) / 2 + B dx dy
//
// Models: pinhole; orthographic; fisheye (equidistant: radius = f * angle to the axis).
#pragma once

#include "core/math.h"

namespace fl {

enum class CameraModel { pinhole = 0, ortho = 1, fisheye = 2 };

constexpr double kAlphaThreshold = 1.0 / 255.0;
constexpr double kMaxExtent = 3.33;  // standard deviations; exp(-3.33^2 / 2) = 1/255
// Squared lower bound of the antialiasing factor: below it a splat is far smaller than a pixel.
constexpr double kMinCompensation2 = 0.005 * 0.005;

template <typename T>
struct CameraView {
  Mat3<T> rotation;
  Vec3<T> translation;
  T fx, fy, cx, cy;
};

template <typename T>
FL_HD CameraView<T> load_camera(const T* viewmat, const T* K) {
  CameraView<T> view;
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) view.rotation.m[r][c] = viewmat[4 * r + c];
  view.translation = {viewmat[3], viewmat[7], viewmat[11]};
  view.fx = K[0];
  view.fy = K[4];
  view.cx = K[2];
  view.cy = K[5];
  return view;
}

template <typename T>
struct ProjectSettings {
  int width, height;
  T eps2d, near_plane, far_plane, radius_clip;
  CameraModel model;
};

// Jacobian of the projection as two rows, and the projected point.
template <typename T>
struct Projection {
  Vec3<T> row0, row1;
  Vec2<T> xy;
};

// theta(r, z) / r and its partial derivatives in q = r^2 and z, for the equidistant fisheye.
template <typename T>
struct AngleOverRadius {
  T g, q, z, qq, qz, zz;
};

template <typename T>
FL_HD AngleOverRadius<T> angle_over_radius(T q, T z) {
  const T h = T(1) / (q + z * z);
  AngleOverRadius<T> f;
  f.z = -h;
  f.zz = T(2) * z * h * h;
  f.qz = h * h;
  const T t = q / (z * z);
  if (z > T(0) && t < T(0.02)) {
    // Near the axis the closed form cancels; atan(s)/s = sum (-1)^k s^2k / (2k + 1).
    T g = T(0), gt = T(0), gtt = T(0);
    for (int k = 8; k >= 0; --k) {
      gtt = gtt * t + gt * T(2);
      gt = gt * t + g;
      g = g * t + (k % 2 ? T(-1) : T(1)) / T(2 * k + 1);
    }
    const T inverse = T(1) / z, inverse2 = inverse * inverse;
    f.g = g * inverse;
    f.q = gt * inverse * inverse2;
    f.qq = gtt * inverse * inverse2 * inverse2;
  } else {
    const T r = std::sqrt(q);
    f.g = std::atan2(r, z) / r;
    f.q = (z * h - f.g) / (T(2) * q);
    f.qq = -(z * h * h + T(3) * f.q) / (T(2) * q);
  }
  return f;
}

template <typename T>
struct ClampLimits {
  T x_low, x_high, y_low, y_high;  // bounds of x/z and y/z
};

template <typename T>
FL_HD ClampLimits<T> clamp_limits(const CameraView<T>& view, int width, int height) {
  const T margin_x = T(0.15) * width / view.fx, margin_y = T(0.15) * height / view.fy;
  return {-view.cx / view.fx - margin_x, (width - view.cx) / view.fx + margin_x,
          -view.cy / view.fy - margin_y, (height - view.cy) / view.fy + margin_y};
}

template <typename T>
FL_HD Projection<T> project_point(const Vec3<T>& p, const CameraView<T>& view,
                                  const ProjectSettings<T>& settings) {
  Projection<T> out;
  if (settings.model == CameraModel::pinhole) {
    const T rz = T(1) / p.z;
    const ClampLimits<T> limits = clamp_limits(view, settings.width, settings.height);
    const T u = minimum(limits.x_high, maximum(limits.x_low, p.x * rz));
    const T v = minimum(limits.y_high, maximum(limits.y_low, p.y * rz));
    out.row0 = {view.fx * rz, T(0), -view.fx * u * rz};
    out.row1 = {T(0), view.fy * rz, -view.fy * v * rz};
    out.xy = {view.fx * p.x * rz + view.cx, view.fy * p.y * rz + view.cy};
  } else if (settings.model == CameraModel::ortho) {
    out.row0 = {view.fx, T(0), T(0)};
    out.row1 = {T(0), view.fy, T(0)};
    out.xy = {view.fx * p.x + view.cx, view.fy * p.y + view.cy};
  } else {
    const AngleOverRadius<T> f = angle_over_radius(p.x * p.x + p.y * p.y, p.z);
    const T cross = T(2) * p.x * p.y * f.q;
    out.row0 = {view.fx * (f.g + T(2) * p.x * p.x * f.q), view.fx * cross, view.fx * p.x * f.z};
    out.row1 = {view.fy * cross, view.fy * (f.g + T(2) * p.y * p.y * f.q), view.fy * p.y * f.z};
    out.xy = {view.fx * p.x * f.g + view.cx, view.fy * p.y * f.g + view.cy};
  }
  return out;
}

template <typename T>
struct ProjectPointGradient {
  Vec3<T> p;
  T fx, fy, cx, cy;
};

// The clamped coordinate u = clamp(x / z) enters only -f u / z. Where it is clamped, f u is
// (1.15 size - c) or -(c + 0.15 size): constant in x, and its gradient goes to c and z.
template <typename T>
FL_HD void pinhole_axis_vjp(T f, T x, T rz, T low, T high, T g_xy, T g_diagonal, T g_depth, T& g_x,
                            T& g_z, T& g_f, T& g_c) {
  const T ratio = x * rz;
  const bool inside = ratio > low && ratio < high;
  const T u = minimum(high, maximum(low, ratio));
  g_x += f * rz * g_xy;
  g_z -= f * ratio * rz * g_xy;
  g_f += ratio * g_xy;
  g_c += g_xy;
  g_f += rz * g_diagonal;
  g_z -= f * rz * rz * g_diagonal;
  g_z += f * u * rz * rz * g_depth;
  if (inside) {
    g_x -= f * rz * rz * g_depth;
    g_z += f * ratio * rz * rz * g_depth;
    g_f -= u * rz * g_depth;
  } else {
    g_c += rz * g_depth;
  }
}

template <typename T>
FL_HD ProjectPointGradient<T> project_point_vjp(const Vec3<T>& p, const CameraView<T>& view,
                                                const ProjectSettings<T>& settings,
                                                const Vec3<T>& g_row0, const Vec3<T>& g_row1,
                                                const Vec2<T>& g_xy) {
  ProjectPointGradient<T> g{{T(0), T(0), T(0)}, T(0), T(0), T(0), T(0)};
  if (settings.model == CameraModel::pinhole) {
    const T rz = T(1) / p.z;
    const ClampLimits<T> limits = clamp_limits(view, settings.width, settings.height);
    pinhole_axis_vjp(view.fx, p.x, rz, limits.x_low, limits.x_high, g_xy.x, g_row0.x, g_row0.z,
                     g.p.x, g.p.z, g.fx, g.cx);
    pinhole_axis_vjp(view.fy, p.y, rz, limits.y_low, limits.y_high, g_xy.y, g_row1.y, g_row1.z,
                     g.p.y, g.p.z, g.fy, g.cy);
  } else if (settings.model == CameraModel::ortho) {
    g.p = {view.fx * g_xy.x, view.fy * g_xy.y, T(0)};
    g.fx = p.x * g_xy.x + g_row0.x;
    g.fy = p.y * g_xy.y + g_row1.y;
    g.cx = g_xy.x;
    g.cy = g_xy.y;
  } else {
    const T x = p.x, y = p.y;
    const AngleOverRadius<T> f = angle_over_radius(x * x + y * y, p.z);
    const T cross = T(2) * x * y * f.q;
    g.fx = x * f.g * g_xy.x + (f.g + T(2) * x * x * f.q) * g_row0.x + cross * g_row0.y +
           x * f.z * g_row0.z;
    g.fy = y * f.g * g_xy.y + cross * g_row1.x + (f.g + T(2) * y * y * f.q) * g_row1.y +
           y * f.z * g_row1.z;
    g.cx = g_xy.x;
    g.cy = g_xy.y;
    // Gradients of g, g_q and g_z, then of x, y directly; g(q, z) chains to p at the end.
    const T a0 = view.fx * g_row0.x, b0 = view.fx * g_row0.y, c0 = view.fx * g_row0.z;
    const T a1 = view.fy * g_row1.y, b1 = view.fy * g_row1.x, c1 = view.fy * g_row1.z;
    const T e0 = view.fx * g_xy.x, e1 = view.fy * g_xy.y;
    const T v_g = x * e0 + y * e1 + a0 + a1;
    const T v_q = T(2) * (x * x * a0 + y * y * a1 + x * y * (b0 + b1));
    const T v_z = x * c0 + y * c1;
    const T along_q = v_g * f.q + v_q * f.qq + v_z * f.qz;
    const T along_z = v_g * f.z + v_q * f.qz + v_z * f.zz;
    g.p.x =
        f.g * e0 + T(4) * x * f.q * a0 + T(2) * y * f.q * (b0 + b1) + f.z * c0 + T(2) * x * along_q;
    g.p.y =
        f.g * e1 + T(4) * y * f.q * a1 + T(2) * x * f.q * (b0 + b1) + f.z * c1 + T(2) * y * along_q;
    g.p.z = along_z;
  }
  return g;
}

// Covariance R S S R^T from a quaternion and three scales.
template <typename T>
FL_HD Sym3<T> covariance(const Quaternion<T>& q, const Vec3<T>& scale) {
  const Mat3<T> r = rotation_from_quaternion(q);
  T m[3][3];
  for (int i = 0; i < 3; ++i) {
    m[i][0] = r.m[i][0] * scale.x;
    m[i][1] = r.m[i][1] * scale.y;
    m[i][2] = r.m[i][2] * scale.z;
  }
  const auto row = [&](int i, int j) {
    return m[i][0] * m[j][0] + m[i][1] * m[j][1] + m[i][2] * m[j][2];
  };
  return {row(0, 0), row(0, 1), row(0, 2), row(1, 1), row(1, 2), row(2, 2)};
}

// g holds the gradient of each stored entry, so an off-diagonal one counts both of its places.
template <typename T>
FL_HD void covariance_vjp(const Quaternion<T>& q, const Vec3<T>& scale, const Sym3<T>& g,
                          Quaternion<T>& g_q, Vec3<T>& g_scale) {
  const Mat3<T> r = rotation_from_quaternion(q);
  const T h = T(0.5);
  const T sym[3][3] = {
      {g.xx, h * g.xy, h * g.xz}, {h * g.xy, g.yy, h * g.yz}, {h * g.xz, h * g.yz, g.zz}};
  const T s[3] = {scale.x, scale.y, scale.z};
  Mat3<T> g_r;
  T g_s[3] = {T(0), T(0), T(0)};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const T g_m =
          T(2) * s[j] * (sym[i][0] * r.m[0][j] + sym[i][1] * r.m[1][j] + sym[i][2] * r.m[2][j]);
      g_r.m[i][j] = g_m * s[j];
      g_s[j] += g_m * r.m[i][j];
    }
  g_q = rotation_from_quaternion_vjp(q, g_r);
  g_scale = {g_s[0], g_s[1], g_s[2]};
}

template <typename T>
struct Projected {
  int radius_x, radius_y;  // zero where the splat is culled
  T x, y, depth;
  T A, B, C;
  T compensation;
};

// How far a splat's alpha stays above 1/255, in standard deviations; negative: nowhere.
template <typename T>
FL_HD T visible_extent(T opacity) {
  if (!(opacity >= T(kAlphaThreshold))) return T(-1);
  return minimum(T(kMaxExtent), std::sqrt(T(2) * std::log(opacity / T(kAlphaThreshold))));
}

// `opacity` < 0 means unknown: the full extent is used. Anything that is not finite is culled.
template <typename T>
FL_HD Projected<T> project_splat(const Vec3<T>& mean, const Sym3<T>& sigma, T opacity,
                                 const CameraView<T>& view, const ProjectSettings<T>& settings,
                                 bool compensate, bool know_opacity) {
  Projected<T> out{0, 0, T(0), T(0), T(0), T(0), T(0), T(0), T(0)};
  const Vec3<T> p = multiply(view.rotation, mean) + view.translation;
  if (!(p.z >= settings.near_plane && p.z <= settings.far_plane)) return out;
  const Projection<T> pr = project_point(p, view, settings);
  const Vec3<T> t0 = multiply_transposed(view.rotation, pr.row0);
  const Vec3<T> t1 = multiply_transposed(view.rotation, pr.row1);
  const Vec3<T> s0 = multiply(sigma, t0), s1 = multiply(sigma, t1);
  const T a0 = dot(t0, s0), b = dot(t0, s1), c0 = dot(t1, s1);
  const T a = a0 + settings.eps2d, c = c0 + settings.eps2d;
  const T det = a * c - b * b;
  if (!(det > T(0)) || !is_finite(det) || !is_finite(pr.xy.x) || !is_finite(pr.xy.y)) return out;
  T compensation = T(1);
  if (compensate) compensation = std::sqrt(maximum(T(kMinCompensation2), (a0 * c0 - b * b) / det));
  T extent = T(kMaxExtent);
  if (know_opacity) extent = visible_extent(compensate ? opacity * compensation : opacity);
  if (!(extent > T(0))) return out;
  const T radius_x = std::ceil(extent * std::sqrt(a)), radius_y = std::ceil(extent * std::sqrt(c));
  if (radius_x <= settings.radius_clip && radius_y <= settings.radius_clip) return out;
  if (pr.xy.x + radius_x <= T(0) || pr.xy.x - radius_x >= T(settings.width) ||
      pr.xy.y + radius_y <= T(0) || pr.xy.y - radius_y >= T(settings.height))
    return out;
  const T limit = T(1 << 30);
  out.radius_x = static_cast<int>(minimum(radius_x, limit));
  out.radius_y = static_cast<int>(minimum(radius_y, limit));
  out.x = pr.xy.x;
  out.y = pr.xy.y;
  out.depth = p.z;
  out.A = c / det;
  out.B = -b / det;
  out.C = a / det;
  out.compensation = compensation;
  return out;
}

template <typename T>
struct ProjectedGradient {
  T x, y, depth, A, B, C, compensation;
};

template <typename T>
struct ProjectGradient {
  Vec3<T> mean;
  Sym3<T> sigma;  // gradient of each stored entry
  Mat3<T> rotation;
  Vec3<T> translation;
  T fx, fy, cx, cy;
};

template <typename T>
FL_HD ProjectGradient<T> project_splat_vjp(const Vec3<T>& mean, const Sym3<T>& sigma,
                                           const CameraView<T>& view,
                                           const ProjectSettings<T>& settings, bool compensate,
                                           const ProjectedGradient<T>& g) {
  const Vec3<T> p = multiply(view.rotation, mean) + view.translation;
  const Projection<T> pr = project_point(p, view, settings);
  const Vec3<T> t0 = multiply_transposed(view.rotation, pr.row0);
  const Vec3<T> t1 = multiply_transposed(view.rotation, pr.row1);
  const Vec3<T> s0 = multiply(sigma, t0), s1 = multiply(sigma, t1);
  const T a0 = dot(t0, s0), b = dot(t0, s1), c0 = dot(t1, s1);
  const T a = a0 + settings.eps2d, c = c0 + settings.eps2d;
  const T inverse = T(1) / (a * c - b * b);
  const T A = c * inverse, B = -b * inverse, C = a * inverse;

  // conic = cov2d^-1, so G_cov = -conic G_conic conic.
  const T h = T(0.5) * g.B;
  const T m00 = A * g.A + B * h, m01 = A * h + B * g.C, m10 = B * g.A + C * h,
          m11 = B * h + C * g.C;
  T g_a = -(m00 * A + m01 * B), g_c = -(m10 * B + m11 * C);
  T g_b = -(m00 * B + m01 * C + m10 * A + m11 * B);
  if (compensate) {
    const T det0 = a0 * c0 - b * b, ratio = det0 * inverse;
    if (ratio > T(kMinCompensation2)) {
      const T g_ratio = g.compensation / (T(2) * std::sqrt(ratio));
      g_a += g_ratio * inverse * (c0 - ratio * c);
      g_c += g_ratio * inverse * (a0 - ratio * a);
      g_b += g_ratio * inverse * T(-2) * b * (T(1) - ratio);
    }
  }

  ProjectGradient<T> out;
  const auto outer = [&](T u0, T v0, T u1, T v1, T w) {
    return g_a * u0 * v0 + g_c * u1 * v1 + T(0.5) * g_b * w;
  };
  const T two = T(2);
  out.sigma.xx = outer(t0.x, t0.x, t1.x, t1.x, two * t0.x * t1.x);
  out.sigma.yy = outer(t0.y, t0.y, t1.y, t1.y, two * t0.y * t1.y);
  out.sigma.zz = outer(t0.z, t0.z, t1.z, t1.z, two * t0.z * t1.z);
  out.sigma.xy = two * outer(t0.x, t0.y, t1.x, t1.y, t0.x * t1.y + t0.y * t1.x);
  out.sigma.xz = two * outer(t0.x, t0.z, t1.x, t1.z, t0.x * t1.z + t0.z * t1.x);
  out.sigma.yz = two * outer(t0.y, t0.z, t1.y, t1.z, t0.y * t1.z + t0.z * t1.y);

  const Vec3<T> g_t0 = two * g_a * s0 + g_b * s1, g_t1 = two * g_c * s1 + g_b * s0;
  const Vec3<T> g_row0 = multiply(view.rotation, g_t0), g_row1 = multiply(view.rotation, g_t1);
  const ProjectPointGradient<T> point =
      project_point_vjp(p, view, settings, g_row0, g_row1, Vec2<T>{g.x, g.y});
  const Vec3<T> g_p = {point.p.x, point.p.y, point.p.z + g.depth};
  out.mean = multiply_transposed(view.rotation, g_p);
  out.translation = g_p;
  const T row0[3] = {pr.row0.x, pr.row0.y, pr.row0.z}, row1[3] = {pr.row1.x, pr.row1.y, pr.row1.z};
  const T gp[3] = {g_p.x, g_p.y, g_p.z};
  for (int i = 0; i < 3; ++i) {
    out.rotation.m[i][0] = row0[i] * g_t0.x + row1[i] * g_t1.x + gp[i] * mean.x;
    out.rotation.m[i][1] = row0[i] * g_t0.y + row1[i] * g_t1.y + gp[i] * mean.y;
    out.rotation.m[i][2] = row0[i] * g_t0.z + row1[i] * g_t1.z + gp[i] * mean.z;
  }
  out.fx = point.fx;
  out.fy = point.fy;
  out.cx = point.cx;
  out.cy = point.cy;
  return out;
}

}  // namespace fl
