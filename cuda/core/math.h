// SPDX-License-Identifier: Apache-2.0
//
// Small vectors, matrices and rotations, templated on the scalar, for host and device.
// Matrices are row-major; `vjp` names a vector-Jacobian product: the gradient of the inputs
// given the gradient of the outputs.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace fl {

template <typename T>
struct Vec2 {
  T x, y;
};

template <typename T>
struct Vec3 {
  T x, y, z;
};

template <typename T>
struct Mat3 {
  T m[3][3];
};

// A symmetric 3x3 matrix as xx, xy, xz, yy, yz, zz.
template <typename T>
struct Sym3 {
  T xx, xy, xz, yy, yz, zz;
};

template <typename T>
FL_HD T square(T x) {
  return x * x;
}

template <typename T>
FL_HD T minimum(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
FL_HD T maximum(T a, T b) {
  return a > b ? a : b;
}

// False for NaN and infinities; stays true to its name under fast-math device code.
template <typename T>
FL_HD bool is_finite(T x) {
  return x - x == T(0);
}

template <typename T>
FL_HD Vec3<T> operator+(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}

template <typename T>
FL_HD Vec3<T> operator-(const Vec3<T>& a, const Vec3<T>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}

template <typename T>
FL_HD Vec3<T> operator*(T s, const Vec3<T>& a) {
  return {s * a.x, s * a.y, s * a.z};
}

template <typename T>
FL_HD T dot(const Vec3<T>& a, const Vec3<T>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <typename T>
FL_HD Vec3<T> multiply(const Mat3<T>& a, const Vec3<T>& v) {
  return {a.m[0][0] * v.x + a.m[0][1] * v.y + a.m[0][2] * v.z,
          a.m[1][0] * v.x + a.m[1][1] * v.y + a.m[1][2] * v.z,
          a.m[2][0] * v.x + a.m[2][1] * v.y + a.m[2][2] * v.z};
}

template <typename T>
FL_HD Vec3<T> multiply_transposed(const Mat3<T>& a, const Vec3<T>& v) {
  return {a.m[0][0] * v.x + a.m[1][0] * v.y + a.m[2][0] * v.z,
          a.m[0][1] * v.x + a.m[1][1] * v.y + a.m[2][1] * v.z,
          a.m[0][2] * v.x + a.m[1][2] * v.y + a.m[2][2] * v.z};
}

template <typename T>
FL_HD Vec3<T> multiply(const Sym3<T>& a, const Vec3<T>& v) {
  return {a.xx * v.x + a.xy * v.y + a.xz * v.z, a.xy * v.x + a.yy * v.y + a.yz * v.z,
          a.xz * v.x + a.yz * v.y + a.zz * v.z};
}

template <typename T>
struct Quaternion {
  T w, x, y, z;
};

// Rotation matrix of a quaternion of any non-zero length.
template <typename T>
FL_HD Mat3<T> rotation_from_quaternion(const Quaternion<T>& q) {
  const T s = T(2) / (q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
  const T xx = s * q.x * q.x, yy = s * q.y * q.y, zz = s * q.z * q.z;
  const T xy = s * q.x * q.y, xz = s * q.x * q.z, yz = s * q.y * q.z;
  const T wx = s * q.w * q.x, wy = s * q.w * q.y, wz = s * q.w * q.z;
  return {{{T(1) - (yy + zz), xy - wz, xz + wy},
           {xy + wz, T(1) - (xx + zz), yz - wx},
           {xz - wy, yz + wx, T(1) - (xx + yy)}}};
}

// Gradient of an unnormalised quaternion given the gradient of its rotation matrix.
template <typename T>
FL_HD Quaternion<T> rotation_from_quaternion_vjp(const Quaternion<T>& q, const Mat3<T>& g) {
  const T inverse = T(1) / std::sqrt(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z);
  const T w = q.w * inverse, x = q.x * inverse, y = q.y * inverse, z = q.z * inverse;
  const T gw = T(2) * (x * (g.m[2][1] - g.m[1][2]) + y * (g.m[0][2] - g.m[2][0]) +
                       z * (g.m[1][0] - g.m[0][1]));
  const T gx = T(2) * (T(-2) * x * (g.m[1][1] + g.m[2][2]) + y * (g.m[0][1] + g.m[1][0]) +
                       z * (g.m[0][2] + g.m[2][0]) + w * (g.m[2][1] - g.m[1][2]));
  const T gy = T(2) * (x * (g.m[0][1] + g.m[1][0]) - T(2) * y * (g.m[0][0] + g.m[2][2]) +
                       z * (g.m[1][2] + g.m[2][1]) + w * (g.m[0][2] - g.m[2][0]));
  const T gz = T(2) * (x * (g.m[0][2] + g.m[2][0]) + y * (g.m[1][2] + g.m[2][1]) -
                       T(2) * z * (g.m[0][0] + g.m[1][1]) + w * (g.m[1][0] - g.m[0][1]));
  // The length of q does not matter, so the gradient is orthogonal to q.
  const T along = gw * w + gx * x + gy * y + gz * z;
  return {(gw - along * w) * inverse, (gx - along * x) * inverse, (gy - along * y) * inverse,
          (gz - along * z) * inverse};
}

}  // namespace fl
