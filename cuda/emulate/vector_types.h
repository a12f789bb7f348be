// SPDX-License-Identifier: Apache-2.0
//
// CUDA's built-in vector types for host compilers, with CUDA's sizes and alignments, in the global
// namespace as CUDA has them.
#pragma once

#define FL_VECTOR_2(name, scalar, alignment) \
  struct alignas(alignment) name {           \
    scalar x, y;                             \
  };                                         \
  static inline name make_##name(scalar x, scalar y) { return name{x, y}; }
#define FL_VECTOR_3(name, scalar) \
  struct name {                   \
    scalar x, y, z;               \
  };                              \
  static inline name make_##name(scalar x, scalar y, scalar z) { return name{x, y, z}; }
#define FL_VECTOR_4(name, scalar, alignment)                               \
  struct alignas(alignment) name {                                         \
    scalar x, y, z, w;                                                     \
  };                                                                       \
  static inline name make_##name(scalar x, scalar y, scalar z, scalar w) { \
    return name{x, y, z, w};                                               \
  }

FL_VECTOR_2(char2, signed char, 2)
FL_VECTOR_2(uchar2, unsigned char, 2)
FL_VECTOR_2(short2, short, 4)
FL_VECTOR_2(ushort2, unsigned short, 4)
FL_VECTOR_2(int2, int, 8)
FL_VECTOR_2(uint2, unsigned, 8)
FL_VECTOR_2(longlong2, long long, 16)
FL_VECTOR_2(ulonglong2, unsigned long long, 16)
FL_VECTOR_2(float2, float, 8)
FL_VECTOR_2(double2, double, 16)
FL_VECTOR_3(uchar3, unsigned char)
FL_VECTOR_3(int3, int)
FL_VECTOR_3(uint3, unsigned)
FL_VECTOR_3(float3, float)
FL_VECTOR_3(double3, double)
FL_VECTOR_4(char4, signed char, 4)
FL_VECTOR_4(uchar4, unsigned char, 4)
FL_VECTOR_4(short4, short, 8)
FL_VECTOR_4(ushort4, unsigned short, 8)
FL_VECTOR_4(int4, int, 16)
FL_VECTOR_4(uint4, unsigned, 16)
FL_VECTOR_4(float4, float, 16)

#undef FL_VECTOR_2
#undef FL_VECTOR_3
#undef FL_VECTOR_4

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 extent) : x(extent.x), y(extent.y), z(extent.z) {}
  constexpr operator uint3() const { return uint3{x, y, z}; }
};
