// SPDX-License-Identifier: Apache-2.0
//
// What NanoVDB itself finds in a .nvdb file: for each grid a line of facts, then a line for each
// voxel that stdin asks for (x y z), with its state and its value's components.
#if __has_include(<nanovdb/io/IO.h>)
#include <nanovdb/io/IO.h>
#include <nanovdb/tools/GridChecksum.h>
#else
#include <nanovdb/util/GridChecksum.h>
#include <nanovdb/util/IO.h>
#endif

#include <cstdio>
#include <type_traits>
#include <vector>

using nanovdb::Coord;

template <typename T>
void print(const T& value) {
  if constexpr (std::is_arithmetic_v<T>) {
    std::printf(" %.17g", static_cast<double>(value));
  } else {
    for (int i = 0; i < 3; ++i) std::printf(" %.17g", static_cast<double>(value[i]));
  }
}

template <typename BuildT>
bool probe(const void* data, const std::vector<Coord>& places) {
  const auto* grid = static_cast<const nanovdb::NanoGrid<BuildT>*>(data);
#if __has_include(<nanovdb/io/IO.h>)
  const bool valid =
      nanovdb::tools::validateChecksum(grid, nanovdb::CheckMode::Full);
#else
  const bool valid = nanovdb::validateChecksum(*grid, nanovdb::ChecksumMode::Full);
#endif
  const auto box = grid->tree().bbox();
  std::printf("grid %llu %d %d %d %d %d %d %d\n",
              static_cast<unsigned long long>(grid->activeVoxelCount()), valid, box.min()[0],
              box.min()[1], box.min()[2], box.max()[0], box.max()[1], box.max()[2]);
  auto accessor = grid->getAccessor();
  for (const Coord& place : places) {
    // The accessor of old versions takes no tile of the root for active.
    std::printf("%d", grid->tree().isActive(place));
    print(accessor.getValue(place));
    std::printf("\n");
  }
  return true;
}

bool probe_any(const nanovdb::GridData& head, const std::vector<Coord>& places) {
  using nanovdb::GridType;
  switch (head.mGridType) {
    case GridType::Float: return probe<float>(&head, places);
    case GridType::Double: return probe<double>(&head, places);
    case GridType::Int16: return probe<int16_t>(&head, places);
    case GridType::Int32: return probe<int32_t>(&head, places);
    case GridType::Int64: return probe<int64_t>(&head, places);
    case GridType::UInt32: return probe<uint32_t>(&head, places);
    case GridType::Vec3f: return probe<nanovdb::Vec3f>(&head, places);
    case GridType::Vec3d: return probe<nanovdb::Vec3d>(&head, places);
    case GridType::Boolean: return probe<bool>(&head, places);
    case GridType::Mask: return probe<nanovdb::ValueMask>(&head, places);
    case GridType::Index: return probe<nanovdb::ValueIndex>(&head, places);
    case GridType::Fp4: return probe<nanovdb::Fp4>(&head, places);
    case GridType::Fp8: return probe<nanovdb::Fp8>(&head, places);
    case GridType::Fp16: return probe<nanovdb::Fp16>(&head, places);
    case GridType::FpN: return probe<nanovdb::FpN>(&head, places);
#if __has_include(<nanovdb/io/IO.h>)
    case GridType::OnIndex: return probe<nanovdb::ValueOnIndex>(&head, places);
#endif
    default: return false;
  }
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::vector<Coord> places;
  for (int x, y, z; std::scanf("%d %d %d", &x, &y, &z) == 3;) places.emplace_back(x, y, z);
  auto handles = nanovdb::io::readGrids(argv[1]);
  for (auto& handle : handles) {
    if (!probe_any(*reinterpret_cast<const nanovdb::GridData*>(handle.data()), places)) return 3;
  }
  return 0;
}
