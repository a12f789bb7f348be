// SPDX-License-Identifier: Apache-2.0
//
// Tensor cores from sm_80 on, and what feeds them: products of 16 x 8 by instructions that take 32
// bytes of depth, copies to shared memory that run behind the computation, and fragments out of it.
//
// Shared tiles of an operand
//   rows        [rows][64 bytes of depth], in chunks of 16 bytes that trade places so that neither
//               the copies that write them nor the reads of eight rows meet in a bank
//   columns     [depth][columns + 8]: the pad of 16 bytes (32 for float) does the same
#pragma once

#include <cstdint>

#include "core/portable.h"
#include "sparse/element.h"

#ifdef FL_EMULATE
#include "emulate/tensor_cores.h"
#endif

namespace fl::sparse {

constexpr int kChunkBytes = 16, kRowBytes = 64, kColumnPad = 8;

template <typename T>
constexpr int kChunk = kChunkBytes / sizeof(T);
template <typename T>
constexpr int kMmaDepth = kRowBytes / sizeof(T);

#if defined(__CUDACC__)

FL_D uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Bytes, or zeros where `exists` is not. Whole chunks pass by the L1 cache.
template <int kBytes>
FL_D void copy_bytes(void* to, const void* from, bool exists) {
  static_assert(kBytes == 8 || kBytes == kChunkBytes);
  if constexpr (kBytes == kChunkBytes)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                 "l"(from), "r"(exists ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(shared_address(to)),
                 "l"(from), "r"(exists ? 8 : 0)
                 : "memory");
}
FL_D void copy_chunk(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
FL_D void close_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kOpen>
FL_D void await_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kOpen) : "memory");
}

FL_D void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
FL_D void load_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Of a float operand the 10 highest bits of the mantissa count.
FL_D uint32_t round_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

#define FL_MMA(instruction)                                                         \
  asm volatile("mma.sync.aligned." instruction                                      \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(w0), "r"(w1))
FL_D void multiply(Half, float (&d)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
  FL_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
FL_D void multiply(BFloat16, float (&d)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
  FL_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
FL_D void multiply(float, float (&d)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
  FL_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef FL_MMA

#else

template <int kBytes>
FL_D void copy_bytes(void* to, const void* from, bool exists) {
  if (exists)
    std::memcpy(to, from, kBytes);
  else
    std::memset(to, 0, kBytes);
}
FL_D void copy_chunk(void* to, const void* from) { std::memcpy(to, from, kChunkBytes); }
FL_D void close_copies() {}
template <int kOpen>
FL_D void await_copies() {}

FL_D void load_matrices(uint32_t (&r)[4], const void* row) {
  emulate::load_matrices(r, row, false);
}
FL_D void load_transposed(uint32_t (&r)[4], const void* row) {
  emulate::load_matrices(r, row, true);
}

FL_D uint32_t round_tf32(uint32_t bits) { return (bits + 0x1000u) & ~0x1fffu; }

template <typename T>
FL_D void multiply(T, float (&d)[4], const uint32_t (&x)[4], uint32_t w0, uint32_t w1) {
  const emulate::MmaOperands operands{{x[0], x[1], x[2], x[3]}, {w0, w1}};
  emulate::multiply_matrices<4 / sizeof(T)>(d, operands, [](uint32_t bits, int i) {
    T value;
    std::memcpy(&value, reinterpret_cast<const unsigned char*>(&bits) + i * sizeof(T), sizeof(T));
    return widen(value);
  });
}

#endif

FL_D void copy_chunk(void* to, const void* from, bool exists) {
  copy_bytes<kChunkBytes>(to, from, exists);
}

template <typename T>
FL_D T* chunk_of_row(T* tile, int row, int chunk) {
  return tile + row * kMmaDepth<T> + ((chunk ^ (row >> 1 & 3)) * kChunk<T>);
}

// Sixteen rows by 32 bytes of depth; `half` says which of the tile's two.
template <typename T>
FL_D void rows_fragment(uint32_t (&r)[4], T* tile, int row0, int half) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices(r, chunk_of_row(tile, row0 + lane % 16, half * 2 + lane / 16));
  if constexpr (sizeof(T) == 4)
    for (uint32_t& bits : r) bits = round_tf32(bits);
}

// Columns as the right operand: 32 bytes' worth of depth by 16 columns, eight in r[0] and r[1].
template <int kStride, typename T>
FL_D void columns_fragment(uint32_t (&r)[4], const T* tile, int column0, int half) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 2) {
    load_transposed(r, tile + (half * 16 + lane % 16) * kStride + column0 + lane / 16 * 8);
  } else {
    const T* at = tile + (half * 8 + lane % 4) * kStride + column0 + lane / 4;
    r[0] = round_tf32(__float_as_uint(at[0]));
    r[1] = round_tf32(__float_as_uint(at[4 * kStride]));
    r[2] = round_tf32(__float_as_uint(at[8]));
    r[3] = round_tf32(__float_as_uint(at[4 * kStride + 8]));
  }
}

// Columns as the left operand, turned: 16 columns by 32 bytes' worth of depth.
template <int kStride, typename T>
FL_D void turned_fragment(uint32_t (&r)[4], const T* tile, int column0, int half) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 2) {
    const int depth = half * 16 + lane % 8 + lane / 16 * 8;
    load_transposed(r, tile + depth * kStride + column0 + lane / 8 % 2 * 8);
  } else {
    const T* at = tile + (half * 8 + lane % 4) * kStride + column0 + lane / 4;
    r[0] = round_tf32(__float_as_uint(at[0]));
    r[1] = round_tf32(__float_as_uint(at[8]));
    r[2] = round_tf32(__float_as_uint(at[4 * kStride]));
    r[3] = round_tf32(__float_as_uint(at[4 * kStride + 8]));
  }
}

}  // namespace fl::sparse
