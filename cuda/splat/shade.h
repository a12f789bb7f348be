// SPDX-License-Identifier: Apache-2.0
//
// Real spherical harmonics of degree 0 to 4 in the sign convention of 3D Gaussian splatting,
// evaluated by the recurrences of Sloan, "Efficient spherical harmonic evaluation" (JCGT 2013).
#pragma once

#include "core/math.h"

namespace fl {

constexpr int kMaxShDegree = 4;
constexpr int kMaxShBases = 25;

// The (degree + 1)^2 basis values at the unit direction (x, y, z).
template <typename T>
FL_HD void sh_bases(int degree, T x, T y, T z, T* b) {
  b[0] = T(0.2820947917738781);
  if (degree < 1) return;
  b[1] = T(-0.48860251190292) * y;
  b[2] = T(0.48860251190292) * z;
  b[3] = T(-0.48860251190292) * x;
  if (degree < 2) return;
  const T z2 = z * z, c1 = x * x - y * y, s1 = T(2) * x * y;
  const T f0b = T(-1.092548430592079) * z;
  b[4] = T(0.5462742152960395) * s1;
  b[5] = f0b * y;
  b[6] = T(0.9461746957575601) * z2 - T(0.3153915652525201);
  b[7] = f0b * x;
  b[8] = T(0.5462742152960395) * c1;
  if (degree < 3) return;
  const T c2 = x * c1 - y * s1, s2 = x * s1 + y * c1;
  const T f0c = T(-2.285228997322329) * z2 + T(0.4570457994644658), f1b = T(1.445305721320277) * z;
  b[9] = T(-0.5900435899266435) * s2;
  b[10] = f1b * s1;
  b[11] = f0c * y;
  b[12] = z * (T(1.865881662950577) * z2 - T(1.119528997770346));
  b[13] = f0c * x;
  b[14] = f1b * c1;
  b[15] = T(-0.5900435899266435) * c2;
  if (degree < 4) return;
  const T c3 = x * c2 - y * s2, s3 = x * s2 + y * c2;
  const T f0d = z * (T(-4.683325804901025) * z2 + T(2.007139630671868));
  const T f1c = T(3.31161143515146) * z2 - T(0.47308734787878), f2b = T(-1.770130769779931) * z;
  b[16] = T(0.6258357354491763) * s3;
  b[17] = f2b * s2;
  b[18] = f1c * s1;
  b[19] = f0d * y;
  b[20] = T(1.984313483298443) * z * b[12] - T(1.006230589874905) * b[6];
  b[21] = f0d * x;
  b[22] = f1c * c1;
  b[23] = f2b * c2;
  b[24] = T(0.6258357354491763) * c3;
}

// Gradient of the unit direction given the gradients g of the basis values.
template <typename T>
FL_HD Vec3<T> sh_bases_vjp(int degree, T x, T y, T z, const T* g) {
  Vec3<T> v{T(0), T(0), T(0)};
  if (degree < 1) return v;
  v.y += T(-0.48860251190292) * g[1];
  v.z += T(0.48860251190292) * g[2];
  v.x += T(-0.48860251190292) * g[3];
  if (degree < 2) return v;
  const T z2 = z * z, c1 = x * x - y * y, s1 = T(2) * x * y;
  // Partial derivatives: dc1 = (2x, -2y), ds1 = (2y, 2x); the higher ones follow the recurrence.
  T g_c1 = T(0.5462742152960395) * g[8], g_s1 = T(0.5462742152960395) * g[4];
  const T f0b = T(-1.092548430592079) * z;
  v.y += f0b * g[5];
  v.x += f0b * g[7];
  v.z += T(-1.092548430592079) * (y * g[5] + x * g[7]);
  T g_b6 = g[6];
  if (degree >= 3) {
    const T c2 = x * c1 - y * s1, s2 = x * s1 + y * c1;
    const T f0c = T(-2.285228997322329) * z2 + T(0.4570457994644658);
    const T f1b = T(1.445305721320277) * z;
    T g_c2 = T(-0.5900435899266435) * g[15], g_s2 = T(-0.5900435899266435) * g[9];
    g_s1 += f1b * g[10];
    g_c1 += f1b * g[14];
    v.z += T(1.445305721320277) * (s1 * g[10] + c1 * g[14]);
    v.y += f0c * g[11];
    v.x += f0c * g[13];
    v.z += T(2) * T(-2.285228997322329) * z * (y * g[11] + x * g[13]);
    T g_b12 = g[12];
    if (degree >= 4) {
      const T f0d = z * (T(-4.683325804901025) * z2 + T(2.007139630671868));
      const T f1c = T(3.31161143515146) * z2 - T(0.47308734787878);
      const T f2b = T(-1.770130769779931) * z;
      const T g_c3 = T(0.6258357354491763) * g[24], g_s3 = T(0.6258357354491763) * g[16];
      g_s2 += f2b * g[17];
      g_c2 += f2b * g[23];
      v.z += T(-1.770130769779931) * (s2 * g[17] + c2 * g[23]);
      g_s1 += f1c * g[18];
      g_c1 += f1c * g[22];
      v.z += T(2) * T(3.31161143515146) * z * (s1 * g[18] + c1 * g[22]);
      v.y += f0d * g[19];
      v.x += f0d * g[21];
      v.z += (T(3) * T(-4.683325804901025) * z2 + T(2.007139630671868)) * (y * g[19] + x * g[21]);
      const T b12 = z * (T(1.865881662950577) * z2 - T(1.119528997770346));
      v.z += T(1.984313483298443) * b12 * g[20];
      g_b12 += T(1.984313483298443) * z * g[20];
      g_b6 -= T(1.006230589874905) * g[20];
      v.x += c2 * g_c3 + s2 * g_s3;
      v.y += -s2 * g_c3 + c2 * g_s3;
      g_c2 += x * g_c3 + y * g_s3;
      g_s2 += -y * g_c3 + x * g_s3;
    }
    v.z += g_b12 * (T(3) * T(1.865881662950577) * z2 - T(1.119528997770346));
    v.x += c1 * g_c2 + s1 * g_s2;
    v.y += -s1 * g_c2 + c1 * g_s2;
    g_c1 += x * g_c2 + y * g_s2;
    g_s1 += -y * g_c2 + x * g_s2;
  }
  v.z += T(2) * T(0.9461746957575601) * z * g_b6;
  v.x += T(2) * (x * g_c1 + y * g_s1);
  v.y += T(2) * (x * g_s1 - y * g_c1);
  return v;
}

// Gradient of d given that of d / |d|.
template <typename T>
FL_HD Vec3<T> normalise_vjp(const Vec3<T>& unit, T inverse_length, const Vec3<T>& g) {
  return inverse_length * (g - dot(unit, g) * unit);
}

}  // namespace fl
