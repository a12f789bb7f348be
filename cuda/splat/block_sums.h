// SPDX-License-Identifier: Apache-2.0
//
// Sums over all threads of a launch in a fixed order: each block writes its own sums, and a second
// launch adds the blocks' in turn. No atomics, so the result is the same every time.
#pragma once

#include "core/portable.h"

namespace fl::splat {

constexpr int kSumThreads = 256;
constexpr int kSumWarps = kSumThreads / 32;

// Adds `values` [K] over the block of kSumThreads threads into row[0..K). All threads call it.
template <typename T, int K>
FL_D void block_sum(T* values, T* row) {
  FL_SHARED_2D(T, warp_sums, kSumWarps, K);
  for (int k = 0; k < K; ++k)
    for (int distance = 16; distance > 0; distance /= 2)
      values[k] += __shfl_down_sync(0xffffffffu, values[k], distance);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0)
    for (int k = 0; k < K; ++k) warp_sums[warp][k] = values[k];
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < K) {
    T sum = T(0);
    for (int w = 0; w < kSumWarps; ++w) sum += warp_sums[w][threadIdx.x];
    row[threadIdx.x] = sum;
  }
  __syncthreads();
}

// totals[i, k] = sum over blocks of rows[i, block, k]; one block of kSumThreads a row i.
template <typename T, int K>
FL_KERNEL add_block_sums_kernel(const T* rows, int64_t blocks, T* totals) {
  constexpr int kStrands = kSumThreads / K;
  FL_SHARED_2D(T, strands, kStrands, K);
  const int k = threadIdx.x % K, strand = threadIdx.x / K;
  if (strand < kStrands) {
    T sum = T(0);
    for (int64_t block = strand; block < blocks; block += kStrands)
      sum += rows[(blockIdx.x * blocks + block) * K + k];
    strands[strand][k] = sum;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < K) {
    T sum = T(0);
    for (int s = 0; s < kStrands; ++s) sum += strands[s][threadIdx.x];
    totals[static_cast<int64_t>(blockIdx.x) * K + threadIdx.x] = sum;
  }
}

}  // namespace fl::splat
