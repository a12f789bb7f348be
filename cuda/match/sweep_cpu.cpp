// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of the plane sweep: threads over bands of rows.
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "match/sweep_simd.h"

namespace fl::match {
namespace {

std::vector<uint32_t> pack(const Tensor& image) {
  const int64_t height = image.size(0), width = image.size(1);
  const int16_t* pixels = input<int16_t>(image);
  std::vector<uint32_t> texels((height + 1) * width);
  parallel_for(0, height + 1, 64, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const int16_t* row = pixels + std::min(y, height - 1) * width;
      for (int64_t x = 0; x < width; ++x)
        texels[y * width + x] = pack_texel(row[x], row[std::min(x + 1, width - 1)]);
    }
  });
  return texels;
}

// One allocation a thread, cut into the arrays of SweepScratch.
class Workspace {
 public:
  Workspace(int width, int planes) {
    scratch_.stride = ((width + 63) / 64) * 64 + 2 * kMargin;
    // Twice: once to add up, once to hand out.
    cut(planes);
    bytes_.resize(used_ + 64);
    base_ = bytes_.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64) % 64;
    used_ = 0;
    cut(planes);
  }
  Workspace(Workspace&&) = default;
  Workspace(const Workspace&) = delete;
  const SweepScratch& scratch() const { return scratch_; }

 private:
  void cut(int planes) {
    take(scratch_.reference, kBandInput);
    take(scratch_.warped, kBandInput);
    take(scratch_.reference8, kBandInput);
    take(scratch_.warped8, kBandInput);
    take(scratch_.census, kBandRows * kCensusPairs);
    take(scratch_.reference_sum, kBandRows);
    take(scratch_.reference_inverse, kBandRows);
    take(scratch_.seen, kBandRows);
    take(scratch_.sums, 6);
    take(scratch_.differing, 1);
    take(scratch_.chosen, kBandRows * kMaxBest);
    take(scratch_.costs, int64_t{kBandRows} * planes);
  }
  template <typename T>
  void take(T*& rows, int64_t count) {
    if (base_ != nullptr) rows = reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<std::size_t>(count) * scratch_.stride * sizeof(T);
  }

  SweepScratch scratch_{};
  std::vector<unsigned char> bytes_;
  unsigned char* base_ = nullptr;
  std::size_t used_ = 0;
};

struct CpuSweep {
  static void run(SweepArgs& a, const std::vector<Tensor>& neighbours, const Tensor&) {
    std::vector<std::vector<uint32_t>> packed;
    for (int n = 0; n < a.neighbours; ++n) {
      packed.push_back(pack(neighbours[n]));
      a.images[n] = {packed.back().data(), static_cast<int>(neighbours[n].size(1)),
                     static_cast<int>(neighbours[n].size(0))};
    }
    const int64_t bands = (a.height + kBandRows - 1) / kBandRows;
    std::vector<Workspace> workspaces;
    for (int64_t i = 0; i < std::min(thread_count(), bands); ++i)
      workspaces.emplace_back(a.width, a.planes);
    parallel_dynamic(bands, [&](int64_t band, int64_t worker) {
      const int first = static_cast<int>(band) * kBandRows;
      FL_ISA_SELECT(sweep_band)
      (a, workspaces[worker].scratch(), first, std::min(kBandRows, a.height - first));
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) { m.impl("match_plane_sweep", TORCH_BOX(&match_plane_sweep<CpuSweep>)); }

}  // namespace fl::match
