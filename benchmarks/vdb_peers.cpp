// SPDX-License-Identifier: Apache-2.0
//
// What benchmarks/vdb.py measures against, compiled by it: NerfAcc's sampling as a plain serial
// program, and, with -DWITH_NANOVDB, occupied spans by NanoVDB's HDDA. One thread; outputs are
// memory that the caller has touched already.
#include <cmath>
#include <cstdint>
#include <ctime>
#include <limits>
#include <utility>

#ifdef WITH_NANOVDB
#include <nanovdb/NanoVDB.h>
#include <nanovdb/util/GridBuilder.h>
#include <nanovdb/util/HDDA.h>
#include <nanovdb/util/Ray.h>
#endif

namespace {

struct Vector {
  float v[3];
};

bool hit(const float* o, const float* d, const float* box, float* enter, float* leave) {
  *enter = -std::numeric_limits<float>::infinity();
  *leave = -*enter;
  for (int a = 0; a < 3; ++a) {
    const float inverse = 1.0f / d[a];
    float first = (box[a] - o[a]) * inverse, second = (box[3 + a] - o[a]) * inverse;
    if (inverse < 0) std::swap(first, second);
    if (*enter > second || first > *leave) return false;
    *enter = std::fmax(*enter, first);
    *leave = std::fmin(*leave, second);
  }
  return *leave > 0;
}

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

}  // namespace

extern "C" {

// NerfAcc's algorithm for one level and no cone: from cell to cell, t from step to step.
int64_t nerfacc_port(const uint8_t* cells, int resolution, const float* box, const float* origins,
                     const float* directions, int64_t rays, float step, int64_t* ray_indices,
                     float* t_starts, float* t_ends, double* seconds) {
  const double started = thread_seconds();
  int64_t n = 0;
  for (int64_t ray = 0; ray < rays; ++ray) {
    const float *o = origins + 3 * ray, *d = directions + 3 * ray;
    float enter, leave;
    if (!hit(o, d, box, &enter, &leave)) continue;
    enter = std::fmax(enter, 0.0f);
    if (enter >= leave) continue;
    float t = 0.0f;
    while (t + step * 0.5f < enter) t += step;
    Vector time, delta;
    int cell[3], way[3], over[3];
    for (int a = 0; a < 3; ++a) {
      const float extent = box[3 + a] - box[a], voxel = extent / resolution;
      const float start = o[a] + d[a] * (enter + 1e-6f), stop = o[a] + d[a] * (leave - 1e-6f);
      const auto index = [&](float p) {
        const int i = static_cast<int>((p - box[a]) / extent * resolution);
        return i < 0 ? 0 : i > resolution - 1 ? resolution - 1 : i;
      };
      cell[a] = index(start);
      way[a] = d[a] > 0 ? 1 : d[a] < 0 ? -1 : 0;
      over[a] = index(stop) + way[a];
      const float inverse = 1.0f / d[a];
      const float face = static_cast<float>(cell[a] + (d[a] > 0)) * voxel;
      time.v[a] = d[a] == 0 ? leave : (box[a] + (face - start)) * inverse + enter;
      delta.v[a] = d[a] == 0 ? leave : voxel * inverse * way[a];
    }
    for (;;) {
      const float exit = std::fmin(std::fmin(time.v[0], std::fmin(time.v[1], time.v[2])), leave);
      const int64_t at =
          (static_cast<int64_t>(cell[0]) * resolution + cell[1]) * resolution + cell[2];
      if (!cells[at]) {
        while (t + step * 0.5f < exit) t += step;
      } else {
        while (t + step * 0.5f < exit) {
          ray_indices[n] = ray;
          t_starts[n] = t;
          t_ends[n] = t + step;
          ++n;
          t += step;
        }
      }
      const int a = time.v[0] < time.v[1] && time.v[0] < time.v[2] ? 0
                    : time.v[1] < time.v[2]                        ? 1
                                                                   : 2;
      cell[a] += way[a];
      time.v[a] += delta.v[a];
      if (cell[a] == over[a]) break;
    }
  }
  *seconds = thread_seconds() - started;
  return n;
}

#ifdef WITH_NANOVDB

using Grid = nanovdb::NanoGrid<float>;  // version 32.4 builds none of bits; no value is read

void* nanovdb_build(const uint8_t* cells, int resolution, double* seconds, int64_t* bytes) {
  const double started = thread_seconds();
  nanovdb::GridBuilder<float> builder(0.0f);
  auto accessor = builder.getAccessor();
  int64_t at = 0;
  for (int x = 0; x < resolution; ++x)
    for (int y = 0; y < resolution; ++y)
      for (int z = 0; z < resolution; ++z)
        if (cells[at++]) accessor.setValue(nanovdb::Coord(x, y, z), 1.0f);
  auto* handle = new nanovdb::GridHandle<>(builder.getHandle<>());
  *seconds = thread_seconds() - started;
  *bytes = static_cast<int64_t>(handle->size());
  return handle;
}

void nanovdb_free(void* handle) { delete static_cast<nanovdb::GridHandle<>*>(handle); }

// Occupied spans by the HDDA, with the coordinate read anew until the node's size is settled.
// Spans per ray are written one after another; returns how many.
int64_t nanovdb_spans(void* handle, int resolution, const float* box, const float* origins,
                      const float* directions, int64_t rays, int64_t* ray_indices, float* t_enter,
                      float* t_exit, double* seconds) {
  using Ray = nanovdb::Ray<float>;
  const double started = thread_seconds();
  const Grid* grid = static_cast<nanovdb::GridHandle<>*>(handle)->grid<float>();
  auto accessor = grid->tree().getAccessor();
  int64_t n = 0;
  for (int64_t i = 0; i < rays; ++i) {
    float o[3], d[3], enter, leave;
    const float cells[6] = {0, 0, 0, float(resolution), float(resolution), float(resolution)};
    for (int a = 0; a < 3; ++a) {
      const float scale = resolution / (box[3 + a] - box[a]);
      o[a] = (origins[3 * i + a] - box[a]) * scale;
      d[a] = directions[3 * i + a] * scale;
    }
    if (!hit(o, d, cells, &enter, &leave)) continue;
    enter = std::fmax(enter, 0.0f);
    if (enter >= leave) continue;
    const Ray ray(nanovdb::Vec3f(o[0], o[1], o[2]), nanovdb::Vec3f(d[0], d[1], d[2]), enter, leave);
    auto ijk = nanovdb::RoundDown<nanovdb::Coord>(ray.start());
    nanovdb::HDDA<Ray, nanovdb::Coord> hdda(ray, accessor.getDim(ijk, ray));
    bool inside = false;
    float entered = 0.0f;
    do {
      ijk = hdda.voxel();
      for (int pass = 0; pass < 3; ++pass) {
        if (!hdda.update(ray, accessor.getDim(ijk, ray))) break;
        ijk = hdda.voxel();
      }
      const bool active = hdda.dim() == 1 && accessor.isActive(ijk);
      if (active && !inside) entered = hdda.time();
      if (!active && inside) {
        ray_indices[n] = i;
        t_enter[n] = entered;
        t_exit[n++] = hdda.time();
      }
      inside = active;
    } while (hdda.step());
    if (inside) {
      ray_indices[n] = i;
      t_enter[n] = entered;
      t_exit[n++] = leave;
    }
  }
  *seconds = thread_seconds() - started;
  return n;
}

#endif

}  // extern "C"
