// SPDX-License-Identifier: Apache-2.0
//
// Bytes to 64-bit leaves on the CPU. A column of 4x4 rows and 64 bytes each is first asked whether
// it holds anything, which most do not; then each row becomes 64 bits, and a transpose of nibbles
// makes 16 leaves of 16 rows.
#include "vdb/grid_build_simd.h"

#include <cstring>

#include "core/simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using vdb::PackArgs;
using vdb::PackedTop;

typedef uint64_t Words8 __attribute__((vector_size(64), aligned(64)));

FL_SIMD Words8 load_row(const uint8_t* p) {
  Words8 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

FL_SIMD bool any_set(Words8 v) {
  return ((v[0] | v[1]) | (v[2] | v[3]) | (v[4] | v[5]) | (v[6] | v[7])) != 0;
}

// A bit for each of 64 bytes that is not zero.
FL_SIMD uint64_t row_bits(const uint8_t* p) {
#if defined(__AVX512BW__)
  const __m512i v = _mm512_loadu_si512(p);
  return _mm512_test_epi8_mask(v, v);
#elif defined(__AVX2__)
  const __m256i zero = _mm256_setzero_si256();
  uint64_t empty = 0;
  for (int i = 0; i < 2; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
    empty |= static_cast<uint64_t>(
                 static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, zero))))
             << (32 * i);
  }
  return ~empty;
#elif defined(__SSE2__)
  const __m128i zero = _mm_setzero_si128();
  uint64_t empty = 0;
  for (int i = 0; i < 4; ++i) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
    empty |=
        static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(v, zero))))
        << (16 * i);
  }
  return ~empty;
#else
  uint64_t bits = 0;
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(p[i] != 0) << i;
  return bits;
#endif
}

template <int kStep>
FL_SIMD void swap_nibbles(uint64_t* a, uint64_t mask) {
  for (int r = 0; r < 16; ++r) {
    if (r & kStep) continue;
    const uint64_t t = ((a[r] >> (4 * kStep)) ^ a[r + kStep]) & mask;
    a[r] ^= t << (4 * kStep);
    a[r + kStep] ^= t;
  }
}

// Nibble k of row r becomes nibble r of row k.
FL_SIMD void transpose_nibbles(uint64_t* a) {
  swap_nibbles<8>(a, 0x00000000ffffffffull);
  swap_nibbles<4>(a, 0x0000ffff0000ffffull);
  swap_nibbles<2>(a, 0x00ff00ff00ff00ffull);
  swap_nibbles<1>(a, 0x0f0f0f0f0f0f0f0full);
}

// rows: 16 pointers to 64 bytes each.
FL_SIMD bool pack_column(const uint8_t* const* rows, uint64_t* words) {
  Words8 any = load_row(rows[0]);
  for (int r = 1; r < 16; ++r) any |= load_row(rows[r]);
  if (!any_set(any)) return false;
  for (int r = 0; r < 16; ++r) words[r] = row_bits(rows[r]);
  transpose_nibbles(words);
  return true;
}

alignas(64) const uint8_t kNoVoxels[64] = {};

}  // namespace

void pack_tops(const PackArgs& a, PackedTop* out) {
  const int tops = (a.size[2] + 63) / 64;
  for (int column = 0; column < 256; ++column) {
    const int x = column / 16 * 4, y = column % 16 * 4;
    if (x >= a.size[0] || y >= a.size[1]) {
      for (int t = 0; t < tops; ++t) out[t].occupied[column] = 0;
      continue;
    }
    for (int t = 0; t < tops; ++t) {
      const int width = a.size[2] - 64 * t;
      alignas(64) uint8_t padded[16][64];
      const uint8_t* rows[16];
      for (int r = 0; r < 16; ++r) {
        const bool inside = x + r / 4 < a.size[0] && y + r % 4 < a.size[1];
        rows[r] = inside ? a.voxels + (x + r / 4) * a.stride_x + (y + r % 4) * a.stride_y + 64 * t
                         : kNoVoxels;
        if (width >= 64 || !inside) continue;
        std::memset(padded[r], 0, 64);
        std::memcpy(padded[r], rows[r], width);
        rows[r] = padded[r];
      }
      out[t].occupied[column] = pack_column(rows, out[t].words[column]) ? 1 : 0;
    }
  }
}

}  // namespace FL_ISA
}  // namespace fl
