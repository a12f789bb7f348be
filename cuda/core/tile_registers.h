// SPDX-License-Identifier: Apache-2.0
//
// The eight tile registers of Intel's AMX, each of 16 rows of 64 bytes, and a plain twin of them,
// so that kernels written for tiles run, and are tested, on any machine. An object of either owns
// the thread's tiles while it lives. As instructions take a tile's number as a constant, so do
// these.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define FL_AMX
#endif

#ifndef FL_ISA
#error "tile_registers.h belongs in *_simd.cpp files, which CMake compiles once a level"
#endif

namespace fl {
namespace FL_ISA {

constexpr int kTiles = 8, kTileRows = 16, kTileBytes = 64;

class PlainTiles {
 public:
  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, sizeof(tiles_[kTile]));
  }
  template <int kTile>
  void load(const void* rows, int64_t stride) {
    for (int i = 0; i < kTileRows; ++i)
      std::memcpy(tiles_[kTile][i], static_cast<const char*>(rows) + i * stride, kTileBytes);
  }
  template <int kTile>
  void store(void* rows, int64_t stride) const {
    for (int i = 0; i < kTileRows; ++i)
      std::memcpy(static_cast<char*>(rows) + i * stride, tiles_[kTile][i], kTileBytes);
  }
  // sums += a b, where a row of `a` and a column of `b` are pairs of bfloat16, summed in float32:
  // the even ones and the odd ones each for themselves, as the instruction does.
  template <int kSums, int kA, int kB>
  void multiply_bf16() {
    for (int i = 0; i < kTileRows; ++i) {
      float even[kWords] = {}, odd[kWords] = {};
      for (int k = 0; k < kTileRows; ++k) {
        const float a_even = low(tiles_[kA][i][k]), a_odd = high(tiles_[kA][i][k]);
        for (int j = 0; j < kWords; ++j) even[j] += a_even * low(tiles_[kB][k][j]);
        for (int j = 0; j < kWords; ++j) odd[j] += a_odd * high(tiles_[kB][k][j]);
      }
      float sums[kWords];
      std::memcpy(sums, tiles_[kSums][i], kTileBytes);
      for (int j = 0; j < kWords; ++j) sums[j] += even[j] + odd[j];
      std::memcpy(tiles_[kSums][i], sums, kTileBytes);
    }
  }

 private:
  static constexpr int kWords = kTileBytes / 4;

  static float of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static float low(uint32_t pair) { return of_bits(pair << 16); }
  static float high(uint32_t pair) { return of_bits(pair & 0xffff0000u); }

  uint32_t tiles_[kTiles][kTileRows][kWords];
};

#if defined(FL_AMX)

// The compiler's own intrinsics do not tell it that a load reads memory.
class AmxTiles {
 public:
  // Of a CPU that has tiles and products of bfloat16, the system must let the process use them.
  static bool available() {
    static const bool granted = has_instructions() && system_permits();
    return granted;
  }

  AmxTiles() {
    Configuration all;
    all.palette = 1;
    for (int i = 0; i < kTiles; ++i) all.row_bytes[i] = kTileBytes, all.rows[i] = kTileRows;
    asm volatile("ldtilecfg %0" ::"m"(all));
  }
  // Tiles in use would be saved at every switch of threads.
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  void load(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* rows, int64_t stride) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSums, int kA, int kB>
  void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kA), "i"(kB));
  }

 private:
  struct alignas(64) Configuration {
    uint8_t palette = 0, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  static bool has_instructions() {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    return (d & kBf16) != 0 && (d & kTile) != 0;
  }

  static bool system_permits() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
};

#endif

}  // namespace FL_ISA
}  // namespace fl
