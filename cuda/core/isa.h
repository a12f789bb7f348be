// SPDX-License-Identifier: Apache-2.0
//
// Which instruction set the CPU kernels use. Files named *_simd.cpp are compiled once a level, each
// inside its own namespace FL_ISA, and FL_ISA_SELECT picks one at run time. FIELDLINE_ISA
// (baseline, avx2, avx512) lowers the choice, so that one machine can test every level.
#pragma once

#include <cstdlib>
#include <cstring>

namespace fl {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

inline Isa detect_isa() {
  Isa best = Isa::baseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    best = Isa::avx512;
#endif
  if (const char* asked = std::getenv("FIELDLINE_ISA")) {
    Isa limit = best;
    if (std::strcmp(asked, "baseline") == 0) limit = Isa::baseline;
    if (std::strcmp(asked, "avx2") == 0) limit = Isa::avx2;
    if (limit < best) best = limit;
  }
  return best;
}

// Read once: the level may not change between a forward and its backward.
inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

}  // namespace fl

#if defined(__x86_64__)
#define FL_ISA_SELECT(function)                                  \
  (::fl::isa() == ::fl::Isa::avx512 ? ::fl::isa_avx512::function \
   : ::fl::isa() == ::fl::Isa::avx2 ? ::fl::isa_avx2::function   \
                                    : ::fl::isa_baseline::function)
#define FL_ISA_DECLARE(declaration) \
  namespace isa_baseline {          \
  declaration;                      \
  }                                 \
  namespace isa_avx2 {              \
  declaration;                      \
  }                                 \
  namespace isa_avx512 {            \
  declaration;                      \
  }
#else
#define FL_ISA_SELECT(function) (::fl::isa_baseline::function)
#define FL_ISA_DECLARE(declaration) \
  namespace isa_baseline {          \
  declaration;                      \
  }
#endif
