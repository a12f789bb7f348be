// SPDX-License-Identifier: Apache-2.0
//
// FL_HD marks a function that host and device share. It is always inlined: the CPU sources are
// compiled at several instruction-set levels, and an out-of-line copy made at one level must never
// be the one that the linker keeps for all.
#pragma once

#ifndef FL_HD
#if defined(__CUDACC__)
#define FL_HD __host__ __device__ __forceinline__
#else
#define FL_HD inline __attribute__((always_inline))
#endif
#endif
