// SPDX-License-Identifier: Apache-2.0
//
// The image loss of one band of rows and, in the same sweep, its gradient. Rows stream through
// rings of eleven: when image row c has been read, the averages of row c - 5 are complete, and with
// them the derivatives that row c - 10 of the gradient needs. A row's result does not depend on
// where its band starts, so the loss is the same for any number of threads.
#include <cstring>
#include <initializer_list>

#include "training/image_loss.h"
#include "training/image_loss_simd.h"

namespace fl {
namespace FL_ISA {
namespace {

using training::kWindow;
using training::kWindowRadius;
using training::LossBand;

#define FL_INLINE static inline __attribute__((always_inline))

template <typename T>
struct Vector {
  static constexpr int64_t lanes = 64 / sizeof(T);
  typedef T type __attribute__((vector_size(64)));
};

template <typename T>
FL_INLINE typename Vector<T>::type load(const T* p) {
  typename Vector<T>::type v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <typename T>
FL_INLINE void store(T* p, typename Vector<T>::type v) {
  std::memcpy(p, &v, sizeof(v));
}

template <typename T>
struct Window {
  static constexpr T weights[kWindow] = FL_SSIM_WINDOW;
};

// The working set of one band. Rows are addressed by their first value; margins lie around it.
template <typename T>
struct Rows {
  const LossBand<T>& band;
  int64_t stride, margin;
  T *x, *y, *derivatives[3], *averages[training::kAverages], *values, *mask;

  explicit Rows(const LossBand<T>& b)
      : band(b), stride(training::loss_row_stride(b.row, b.tap)), margin(kWindowRadius * b.tap) {
    T* next = b.scratch;
    const auto take = [&](int64_t rows) {
      T* taken = next;
      next += rows * stride;
      return taken;
    };
    x = take(kWindow);
    y = take(kWindow);
    for (T*& d : derivatives) d = take(kWindow);
    for (T*& a : averages) a = take(1);
    values = take(1);
    mask = take(1);
  }

  // Ring slot of a row; rows start at -10.
  int64_t slot(int64_t r) const { return (r + 2 * kWindow) % kWindow * stride; }
};

template <typename T, typename S>
FL_INLINE void convert_row(const S* from, const uint8_t* mask, int64_t tap, int64_t n, T scale,
                           T* to) {
  if (mask == nullptr) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]) * scale;
  } else if (tap == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = mask[i] ? static_cast<T>(from[i]) * scale : T(0);
  } else {
    for (int64_t p = 0; p < n / tap; ++p)
      for (int64_t i = p * tap; i < (p + 1) * tap; ++i)
        to[i] = mask[p] ? static_cast<T>(from[i]) * scale : T(0);
  }
}

// Reads image row r into the rings; zero outside the image and where the mask is false.
template <typename T>
void read_row(const Rows<T>& rows, int64_t r) {
  const LossBand<T>& b = rows.band;
  T* x = rows.x + rows.slot(r) + rows.margin;
  T* y = rows.y + rows.slot(r) + rows.margin;
  if (r < 0 || r >= b.height) {
    std::memset(x, 0, b.row * sizeof(T));
    std::memset(y, 0, b.row * sizeof(T));
    return;
  }
  const uint8_t* mask = b.mask ? b.mask + r * (b.row / b.tap) : nullptr;
  convert_row(b.image + r * b.row, mask, b.tap, b.row, T(1), x);
  if (b.bytes)
    convert_row(static_cast<const uint8_t*>(b.target) + r * b.row, mask, b.tap, b.row,
                T(1) / T(255), y);
  else
    convert_row(static_cast<const T*>(b.target) + r * b.row, mask, b.tap, b.row, T(1), y);
}

template <typename T>
FL_INLINE void ring_pointers(const Rows<T>& rows, const T* ring, int64_t centre,
                             const T* (&pointers)[kWindow]) {
  for (int k = 0; k < kWindow; ++k) pointers[k] = ring + rows.slot(centre + k - kWindowRadius);
}

// Weighted sums down the columns around a row, of what is averaged.
template <typename T>
void average_columns(const Rows<T>& rows, int64_t centre) {
  using V = typename Vector<T>::type;
  const T *xs[kWindow], *ys[kWindow];
  ring_pointers(rows, rows.x, centre, xs);
  ring_pointers(rows, rows.y, centre, ys);
  for (int64_t i = 0; i < rows.stride; i += Vector<T>::lanes) {
    V sums[training::kAverages] = {};
#pragma GCC unroll 11
    for (int k = 0; k < kWindow; ++k) {
      const V x = load(xs[k] + i), y = load(ys[k] + i), d = x - y;
      const V wx = Window<T>::weights[k] * x, wy = Window<T>::weights[k] * y;
      sums[0] += wx;
      sums[1] += wy;
      sums[2] += wx * x + wy * y;
      sums[3] += Window<T>::weights[k] * (d * d);
    }
    for (int q = 0; q < training::kAverages; ++q) store(rows.averages[q] + i, sums[q]);
  }
}

template <typename T>
FL_INLINE typename Vector<T>::type average_row(const T* row, int64_t tap) {
  typename Vector<T>::type sum = {};
#pragma GCC unroll 11
  for (int k = 0; k < kWindow; ++k) sum += Window<T>::weights[k] * load(row + k * tap);
  return sum;
}

// Sum in an order that depends on n alone.
template <typename T>
double sum_row(const T* values, int64_t n) {
  using V = typename Vector<T>::type;
  V sum = {};
  for (int64_t i = 0; i < n; i += Vector<T>::lanes) sum += load(values + i);
  double total = 0;
  for (int64_t lane = 0; lane < Vector<T>::lanes; ++lane) total += sum[lane];
  return total;
}

// Similarities of row r and their derivatives; zero where they do not count.
template <typename T>
void similarity_row(const Rows<T>& rows, int64_t r) {
  using V = typename Vector<T>::type;
  const LossBand<T>& b = rows.band;
  const int64_t slot = rows.slot(r);
  T* derivatives[3];
  for (int q = 0; q < 3; ++q) derivatives[q] = rows.derivatives[q] + slot + rows.margin;
  const int64_t skipped_rows = b.valid ? kWindowRadius : 0;
  if (r < skipped_rows || r >= b.height - skipped_rows) {
    for (T* d : derivatives) std::memset(d, 0, b.row * sizeof(T));
    if (r >= b.first && r < b.last) b.ssim_sums[r] = 0;
    return;
  }
  average_columns(rows, r);
  if (b.mask != nullptr) {
    const uint8_t* mask = b.mask + r * (b.row / b.tap);
    for (int64_t i = 0; i < b.row; ++i) rows.mask[i] = T(mask[i / b.tap] != 0);
  }
  for (int64_t i = 0; i < b.row; i += Vector<T>::lanes) {
    V averages[training::kAverages];
    for (int q = 0; q < training::kAverages; ++q)
      averages[q] = average_row(rows.averages[q] + i, b.tap);
    auto s = training::similarity<T, V>(averages[0], averages[1], averages[2], averages[3]);
    if (b.mask != nullptr) {
      const V kept = load(rows.mask + i);
      s = {s.value * kept, s.d_mean * kept, s.d_energy * kept, s.d_error * kept};
    }
    store(rows.values + i, s.value);
    store(derivatives[0] + i, s.d_mean);
    store(derivatives[1] + i, s.d_energy);
    store(derivatives[2] + i, s.d_error);
  }
  // The last vector reached beyond the row, and "valid" leaves out the margins.
  const int64_t skipped = b.valid ? rows.margin : 0, end = b.row - skipped;
  const int64_t beyond = rows.stride - rows.margin - end;
  for (T* row : {rows.values, derivatives[0], derivatives[1], derivatives[2]}) {
    std::memset(row, 0, skipped * sizeof(T));
    std::memset(row + end, 0, beyond * sizeof(T));
  }
  if (r >= b.first && r < b.last) b.ssim_sums[r] = sum_row(rows.values, b.row);
}

template <typename T>
void absolute_row(const Rows<T>& rows, int64_t r) {
  using V = typename Vector<T>::type;
  const LossBand<T>& b = rows.band;
  const T* x = rows.x + rows.slot(r) + rows.margin;
  const T* y = rows.y + rows.slot(r) + rows.margin;
  for (int64_t i = 0; i < b.row; i += Vector<T>::lanes) {
    const V d = load(x + i) - load(y + i);
    store(rows.values + i, d < T(0) ? -d : d);
  }
  b.l1_sums[r] = sum_row(rows.values, b.row);
}

// Gradient of row r, whose derivative rows r - 5 .. r + 5 are in the rings.
template <typename T>
void gradient_row(const Rows<T>& rows, int64_t r) {
  using V = typename Vector<T>::type;
  const LossBand<T>& b = rows.band;
  for (int q = 0; q < 3; ++q) {
    const T* ds[kWindow];
    ring_pointers(rows, rows.derivatives[q], r, ds);
    for (int64_t i = 0; i < rows.stride; i += Vector<T>::lanes) {
      V sum = {};
#pragma GCC unroll 11
      for (int k = 0; k < kWindow; ++k) sum += Window<T>::weights[k] * load(ds[k] + i);
      store(rows.averages[q] + i, sum);
    }
  }
  const T* x = rows.x + rows.slot(r) + rows.margin;
  const T* y = rows.y + rows.slot(r) + rows.margin;
  for (int64_t i = 0; i < b.row; i += Vector<T>::lanes) {
    const V vx = load(x + i), vy = load(y + i), d = vx - vy;
    const V by_mean = average_row(rows.averages[0] + i, b.tap);
    const V by_energy = average_row(rows.averages[1] + i, b.tap);
    const V by_error = average_row(rows.averages[2] + i, b.tap);
    const V one = V{} + T(1);
    // The comparison with NaN is false both ways; d - d keeps it.
    const V sign = d > T(0) ? one : (d < T(0) ? -one : d - d);
    store(rows.values + i,
          b.l1_scale * sign + b.ssim_scale * (by_mean + T(2) * (vx * by_energy + d * by_error)));
  }
  T* gradient = b.gradient + r * b.row;
  if (b.mask == nullptr) {
    std::memcpy(gradient, rows.values, b.row * sizeof(T));
  } else {
    const uint8_t* mask = b.mask + r * (b.row / b.tap);
    for (int64_t i = 0; i < b.row; ++i) gradient[i] = mask[i / b.tap] ? rows.values[i] : T(0);
  }
}

template <typename T>
void image_loss_band(const LossBand<T>& band) {
  const Rows<T> rows(band);
  const int64_t reach = band.gradient ? kWindowRadius : 0;
  for (int64_t r = band.first - reach - kWindowRadius; r < band.last + reach + kWindowRadius; ++r) {
    read_row(rows, r);
    const int64_t centre = r - kWindowRadius;
    if (centre < band.first - reach) continue;
    similarity_row(rows, centre);
    if (centre >= band.first && centre < band.last) absolute_row(rows, centre);
    if (band.gradient && centre - reach >= band.first) gradient_row(rows, centre - reach);
  }
}

}  // namespace

void image_loss_band_float(const LossBand<float>& band) { image_loss_band(band); }
void image_loss_band_double(const LossBand<double>& band) { image_loss_band(band); }

}  // namespace FL_ISA
}  // namespace fl
