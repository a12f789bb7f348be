// SPDX-License-Identifier: Apache-2.0
//
// Convolution of bfloat16 by the instruction that multiplies pairs of them, for CPUs that have it
// beyond the level avx512.
#include "sparse/convolution_simd.h"

#if defined(FL_BF16_PRODUCTS)

#include <cstring>
#include <type_traits>

#include "core/portable.h"
#include "core/simd.h"
#include "sparse/rows_simd.h"

// From here on, so that nothing shared with other files is compiled for that instruction.
#pragma GCC push_options
#pragma GCC target("avx512bf16")
#define FL_MULTIPLY_PAIRS
#include "sparse/convolution_tiles.h"

namespace fl {
namespace FL_ISA {

bool has_bf16_products() { return __builtin_cpu_supports("avx512bf16"); }

// AMD's run it at the rate of fp32's multiply-add, for twice as many products. Intel's with AMX run
// it at a quarter of that rate: half as many products a second, and widening first is faster.
bool fast_bf16_products() { return !__builtin_cpu_is("intel"); }

void convolve_block_by_bf16_products(const BlockArgs<float, BFloat16Pair>& a) { multiply_block(a); }

}  // namespace FL_ISA
}  // namespace fl

#pragma GCC pop_options

#endif
