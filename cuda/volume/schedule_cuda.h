// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of every Work: a warp a ray, lanes over its samples, so that what lies together is
// read together. A ray longer than a warp is walked 32 samples at a time.
#pragma once

#include "core/device_guard.h"
#include "core/portable.h"
#include "volume/rays.h"

namespace fl::volume {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kFullWarp = 0xffffffffu;

struct WarpWalk {
  static FL_D int lane() { return static_cast<int>(threadIdx.x) % 32; }

  template <typename State>
  static FL_D State shuffle_up(const State& state, int distance) {
    State other;
    for (int k = 0; k < State::kWords; ++k)
      other.v[k] = __shfl_up_sync(kFullWarp, state.v[k], distance);
    return other;
  }

  template <typename State>
  static FL_D State of_lane(const State& state, int from) {
    State other;
    for (int k = 0; k < State::kWords; ++k) other.v[k] = __shfl_sync(kFullWarp, state.v[k], from);
    return other;
  }

  template <typename State, typename Load, typename Store>
  static FL_D void scan(Run run, bool reverse, const Load& load, const Store& store) {
    State carry = State::none();
    for (int64_t base = 0; base < run.count(); base += 32) {
      const int64_t k = base + lane();
      const bool valid = k < run.count();
      const int64_t i = reverse ? run.end - 1 - k : run.begin + k;
      const State here = valid ? load(i) : State::none();
      State through = here;
      for (int distance = 1; distance < 32; distance *= 2) {
        const State other = shuffle_up(through, distance);
        if (lane() >= distance) through = other.then(through);
      }
      State before = shuffle_up(through, 1);
      before = lane() == 0 ? carry : carry.then(before);
      if (valid) store(i, before, here);
      carry = carry.then(of_lane(through, 31));
    }
  }

  template <typename State, typename Load>
  static FL_D State sum(Run run, const Load& load) {
    State total = State::none();
    for (int64_t i = run.begin + lane(); i < run.end; i += 32) total = total.then(load(i));
    for (int k = 0; k < State::kWords; ++k) total.v[k] = add(total.v[k]);
    return total;
  }

  template <typename T>
  static FL_D T add(T own) {
    for (int distance = 16; distance > 0; distance /= 2)
      own += __shfl_xor_sync(kFullWarp, own, distance);
    return own;
  }

  template <typename F>
  static FL_D void each(int64_t count, const F& f) {
    for (int64_t k = lane(); k < count; k += 32) f(k);
  }

  static FL_D bool leads() { return lane() == 0; }
  static FL_D void settle() { __syncwarp(); }
};

template <typename Work>
FL_KERNEL FL_LAUNCH_BOUNDS(kThreads, 4) ray_kernel(Rays rays, Work work) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t ray = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
       ray < rays.n_rays; ray += warps)
    work.template run<WarpWalk>(ray, rays.run(ray));
}

struct CudaBackend {
  // packed_info is not read on the host: runs are cut to what there is, and outputs start at zero.
  static bool covers(const Rays& rays, const char*) { return rays.packed == nullptr; }

  template <typename Work>
  static void run(const Rays& rays, const Work& work, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    constexpr int64_t most_blocks = int64_t{1} << 24;
    const int64_t blocks = (rays.n_rays + kWarps - 1) / kWarps;
    FL_LAUNCH((ray_kernel<Work>), blocks < most_blocks ? blocks : most_blocks, kThreads, 0,
              current_stream(like.get_device_index()), rays, work);
  }
};

}  // namespace fl::volume
