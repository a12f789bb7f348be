// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of convolution. Threads take blocks of output rows; a block goes through all taps in
// order while its sums are in the cache. Every sum has one order, so that neither the number of
// threads nor the size of blocks changes a bit of it. Gradients of weights: threads take pieces of
// the taps' lists of pairs, of a size that only the map decides, whose sums are added up in order.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/parallel.h"
#include "core/registration.h"
#include "sparse/convolution_backward_entry.h"
#include "sparse/convolution_simd.h"

namespace fl::sparse {
namespace {

// The sums of a block of narrow rows stay in the L2 cache. With wide rows that is too few of them:
// each block reads all weights, which then matter more than sums that come from the L3 cache.
constexpr int64_t kBlockBytes = 256 << 10;
constexpr int64_t kBlockRows = 1024;
constexpr int64_t kLeastRows = 32;
constexpr int64_t kBlocksPerThread = 8;
constexpr int64_t kConvertGrain = 1 << 15;

// Memory for whole vectors, not initialised.
template <typename A>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n)
      : data_(static_cast<A*>(std::aligned_alloc(
            kAlignment, (n * sizeof(A) + kAlignment) / kAlignment * kAlignment))) {
    STD_TORCH_CHECK(data_ != nullptr, "sparse_conv: out of memory for ", n, " numbers");
  }
  A* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(A* data) const { std::free(data); }
  };
  std::unique_ptr<A, Free> data_;
};

// What the kernels read of a tensor of T: its own elements, taken as E, or a copy in float32.
template <typename T, typename E, bool kCopies = !std::is_same_v<T, E> && std::is_same_v<E, float>>
class Elements {
 public:
  explicit Elements(const Tensor& tensor) : data_(static_cast<const E*>(tensor.const_data_ptr())) {}
  const E* get() const { return data_; }

 private:
  const E* data_;
};
template <typename T>
class Elements<T, float, true> {
 public:
  explicit Elements(const Tensor& tensor) : copy_(tensor.numel()) {
    parallel_for(0, tensor.numel(), kConvertGrain, [&](int64_t begin, int64_t end) {
      FL_ISA_SELECT(widen_all<T>)(input<T>(tensor) + begin, end - begin, copy_.get() + begin);
    });
  }
  const float* get() const { return copy_.get(); }

 private:
  Buffer<float> copy_;
};

// The pairs of a map, and where those of each block of output rows begin. Whoever calls the
// operator directly may hand over anything: rows, which are used as addresses, are checked.
class BlockedPairs {
 public:
  BlockedPairs(const MapInput& map, int64_t n_in, int64_t n_out, int64_t block_rows, const char* op)
      : in_rows(input<int32_t>(map.in_rows)),
        out_rows(input<int32_t>(map.out_rows)),
        starts(input<int64_t>(map.starts)),
        n_taps(map.n_taps),
        n_blocks((n_out + block_rows - 1) / block_rows) {
    check_starts(map, op);
    cursors_.resize((n_blocks + 1) * n_taps);
    std::atomic<bool> inside{true}, ascending{true};
    parallel_for(0, n_taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        if (!rows_inside(t, n_in)) inside = false;
        if (!place(t, n_out, block_rows)) ascending = false;
      }
    });
    STD_TORCH_CHECK(inside, op, ": in_rows: expected rows from 0 to ", n_in - 1);
    STD_TORCH_CHECK(ascending, op, ": out_rows: expected rows from 0 to ", n_out - 1,
                    ", ascending within a tap");
  }

  // Of each tap, the first pair of a block; the first of the next block is where it ends.
  const int64_t* begins(int64_t block) const { return cursors_.data() + block * n_taps; }

  const int32_t *in_rows, *out_rows;
  const int64_t* starts;
  int64_t n_taps, n_blocks;

 private:
  void check_starts(const MapInput& map, const char* op) const {
    STD_TORCH_CHECK(n_taps > 0, op, ": starts: expected [K + 1], got ", shape_text(map.starts));
    const int64_t n_pairs = map.in_rows.size(0);
    bool good = starts[0] == 0 && starts[n_taps] == n_pairs;
    for (int64_t t = 0; t < n_taps; ++t) good &= starts[t] <= starts[t + 1];
    STD_TORCH_CHECK(good, op, ": starts: expected to ascend from 0 to ", n_pairs, " pairs");
  }

  bool rows_inside(int64_t tap, int64_t n_in) const {
    uint32_t highest = 0;  // a row below zero is a high one
    for (int64_t p = starts[tap]; p < starts[tap + 1]; ++p)
      highest = std::max(highest, static_cast<uint32_t>(in_rows[p]));
    return starts[tap] == starts[tap + 1] || highest < static_cast<uint64_t>(n_in);
  }

  bool place(int64_t tap, int64_t n_out, int64_t block_rows) {
    const int32_t *first = out_rows + starts[tap], *last = out_rows + starts[tap + 1];
    int falls = 0;
    for (const int32_t* p = first + 1; p < last; ++p) falls |= p[0] <= p[-1];
    if (first < last && (falls != 0 || first[0] < 0 || last[-1] >= n_out)) return false;
    for (int64_t block = 0; block <= n_blocks; ++block) {
      // A block has no more pairs of a tap than rows.
      const int32_t* end = last - first > block_rows ? first + block_rows : last;
      first = block > 0 ? std::lower_bound(first, end, block * block_rows) : first;
      cursors_[block * n_taps + tap] = first - out_rows;
    }
    return true;
  }

  std::vector<int64_t> cursors_;
};

// Chosen once, as the instruction set is.
const PairConvolution& pair_kernel() {
  static const PairConvolution chosen = FL_ISA_SELECT(pair_convolution)();
  return chosen;
}

// E is what is multiplied at once: one number, or a pair of bfloat16.
template <typename T, typename E = Sum<T>>
class Convolution {
  using A = Sum<T>;
  static constexpr bool kPairs = std::is_same_v<E, BFloat16Pair>;

 public:
  Convolution(const ConvolutionInput& in, const Tensor& out)
      : in_(in),
        out_(output<T>(out)),
        channels_(channels_of(in)),
        block_rows_(rows_of_a_block()),
        pairs_(in.map, in.n_in, in.n_out, block_rows_, "sparse_conv"),
        features_(in.features),
        weight_(pairs_.n_taps * channels_.packed<A>()),
        bias_(channels_.row<A>()) {
    parallel_for(0, pairs_.n_taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        pack(input<T>(in.weight) + t * in.weight.size(1) * in.channels_out,
             weight_.get() + t * channels_.packed<A>());
    });
    spread_bias();
  }

  void run() const {
    std::vector<Buffer<A>> sums(std::min(thread_count(), pairs_.n_blocks));
    parallel_dynamic(pairs_.n_blocks, [&](int64_t block, int64_t worker) {
      const int64_t first = block * block_rows_;
      if (in_place())
        return run_block(block, reinterpret_cast<A*>(out_ + first * in_.channels_out));
      if (sums[worker].get() == nullptr) sums[worker] = Buffer<A>(block_rows_ * channels_.row<A>());
      run_block(block, sums[worker].get());
    });
  }

 private:
  static Channels channels_of(const ConvolutionInput& in) {
    Channels channels{in.groups, in.weight.size(1), in.channels_out / in.groups};
    if constexpr (kPairs) {
      const int64_t step = pair_kernel().depth_step;
      channels.in /= 2;
      channels.depth = (channels.in + step - 1) / step * step;
    }
    return channels;
  }

  int64_t rows_of_a_block() const {
    const int64_t row_bytes = channels_.row<A>() * static_cast<int64_t>(sizeof(A));
    const int64_t most = std::max(kBlockBytes / row_bytes, kBlockRows);
    const int64_t shared = in_.n_out / (thread_count() > 1 ? thread_count() * kBlocksPerThread : 1);
    return std::max(kLeastRows, std::min(most, shared));
  }

  // A depthwise convolution has its groups side by side, others pad each.
  void spread_bias() {
    std::memset(bias_.get(), 0, channels_.row<A>() * sizeof(A));
    const T* bias = optional_input<T>(in_.bias);
    if (bias == nullptr) return;
    const int64_t width = channels_.depthwise() ? 1 : padded<A>(channels_.out);
    for (int64_t c = 0; c < channels_.all_out(); ++c)
      bias_.get()[c / channels_.out * width + c % channels_.out] = widen(bias[c]);
  }

  void pack(const T* weight, E* packed) const {
    if constexpr (kPairs)
      pair_kernel().pack(weight, channels_, packed);
    else
      FL_ISA_SELECT(pack_weight<T>)(weight, channels_, packed);
  }

  static void convolve(const BlockArgs<A, E>& block) {
    if constexpr (kPairs)
      pair_kernel().convolve(block);
    else
      FL_ISA_SELECT(convolve_block<A>)(block);
  }

  bool in_place() const {
    return std::is_same_v<T, A> && channels_.row<A>() == channels_.all_out();
  }

  bool is_bare() const {
    return !in_.bias.has_value() && !in_.residual.has_value() && in_.activation == Activation::none;
  }

  void run_block(int64_t block, A* sums) const {
    const int64_t first = block * block_rows_, rows = std::min(block_rows_, in_.n_out - first);
    std::memset(sums, 0, rows * channels_.row<A>() * sizeof(A));
    convolve({features_.get(), weight_.get(), pairs_.in_rows, pairs_.out_rows, pairs_.begins(block),
              pairs_.begins(block + 1), pairs_.n_taps, first, channels_, sums});
    if (in_place() && is_bare()) return;
    const T* residual = optional_input<T>(in_.residual);
    const int64_t offset = first * channels_.all_out();
    FL_ISA_SELECT(finish_block<T>)
    ({bias_.get(), residual == nullptr ? nullptr : residual + offset, rows, channels_,
      in_.activation, static_cast<A>(in_.slope), sums, out_ + offset});
  }

  const ConvolutionInput& in_;
  T* out_;
  Channels channels_;
  int64_t block_rows_;
  BlockedPairs pairs_;
  Elements<T, E> features_;
  Buffer<E> weight_;
  Buffer<A> bias_;
};

// Part of a tap's pairs; the first piece of each tap begins its sum, the others are added to it.
struct Piece {
  int64_t tap, begin, end;
};

constexpr int64_t kLeastPairs = 4096;
constexpr int64_t kPieces = 64;

std::vector<Piece> pieces_of(const BlockedPairs& pairs) {
  const int64_t size = std::max(kLeastPairs, pairs.starts[pairs.n_taps] / kPieces);
  std::vector<Piece> pieces;
  for (int64_t t = 0; t < pairs.n_taps; ++t) {
    int64_t begin = pairs.starts[t];
    do {
      const int64_t end = std::min(begin + size, pairs.starts[t + 1]);
      pieces.push_back({t, begin, end});
      begin = end;
    } while (begin < pairs.starts[t + 1]);
  }
  return pieces;
}

// Out is T, or wider.
template <typename T, typename Out>
class WeightGradient {
  using A = Sum<T>;

 public:
  WeightGradient(const WeightGradientInput& in, const Tensor& out)
      : out_(output<Out>(out)),
        channels_{in.groups, in.channels_in / in.groups, in.channels_out / in.groups},
        pairs_(in.map, in.n_in, in.n_out, std::max<int64_t>(in.n_out, 1), "sparse_conv_backward"),
        pieces_(pieces_of(pairs_)),
        features_(in.features),
        gradient_(in.gradient),
        sums_(static_cast<int64_t>(pieces_.size()) * channels_.packed<A>()) {}

  void run() const {
    const int64_t size = channels_.packed<A>();
    parallel_dynamic(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int64_t) {
      const Piece& piece = pieces_[i];
      A* sums = sums_.get() + i * size;
      std::memset(sums, 0, size * sizeof(A));
      FL_ISA_SELECT(add_outer_products<A>)
      ({features_.get(), gradient_.get(), pairs_.in_rows + piece.begin,
        pairs_.out_rows + piece.begin, piece.end - piece.begin, channels_, sums});
    });
    parallel_for(0, pairs_.n_taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) store_tap(t);
    });
  }

 private:
  void store_tap(int64_t tap) const {
    const int64_t size = channels_.packed<A>();
    const auto first = std::lower_bound(pieces_.begin(), pieces_.end(), tap,
                                        [](const Piece& p, int64_t t) { return p.tap < t; });
    A* sums = sums_.get() + (first - pieces_.begin()) * size;
    for (auto piece = first + 1; piece != pieces_.end() && piece->tap == tap; ++piece) {
      const A* more = sums_.get() + (piece - pieces_.begin()) * size;
      for (int64_t i = 0; i < size; ++i) sums[i] += more[i];
    }
    const int64_t width = channels_.depthwise() ? 1 : padded<A>(channels_.out);
    Out* out = out_ + tap * channels_.in * channels_.all_out();
    for (int64_t k = 0; k < channels_.in; ++k)
      for (int64_t g = 0; g < channels_.groups; ++g)
        for (int64_t c = 0; c < channels_.out; ++c)
          narrow(sums[k * channels_.row<A>() + g * width + c], *out++);
  }

  Out* out_;
  Channels channels_;
  BlockedPairs pairs_;
  std::vector<Piece> pieces_;
  Elements<T, A> features_, gradient_;
  Buffer<A> sums_;
};

struct CpuConvolution {
  static void forward(const ConvolutionInput& in, const Tensor& out) {
    const bool in_pairs = in.features.scalar_type() == ScalarType::BFloat16 &&
                          in.weight.size(1) % 2 == 0 && pair_kernel().convolve != nullptr;
    if (in_pairs) return Convolution<BFloat16, BFloat16Pair>(in, out).run();
    dispatch_element(in.features, [&](auto t) { Convolution<decltype(t)>(in, out).run(); });
  }

  static void weight_gradient(const WeightGradientInput& in, const Tensor& out) {
    dispatch_element(in.features, [&](auto t) {
      using T = decltype(t);
      if (out.scalar_type() == sum_dtype(in.features))
        WeightGradient<T, Sum<T>>(in, out).run();
      else
        WeightGradient<T, T>(in, out).run();
    });
  }

  static void turn(const WeightTurn& turn, const Tensor& weight, const Tensor& out) {
    dispatch_element(weight, [&](auto t) {
      using T = decltype(t);
      parallel_for(0, turn.matrices(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; ++m)
          transpose(turn, input<T>(weight) + turn.source(m), output<T>(out) + turn.target(m));
      });
    });
  }

 private:
  template <typename T>
  static void transpose(const WeightTurn& turn, const T* from, T* to) {
    for (int64_t k = 0; k < turn.own_in; ++k)
      for (int64_t c = 0; c < turn.own_out; ++c)
        to[c * turn.target_stride() + k] = from[k * turn.source_stride() + c];
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("sparse_conv", TORCH_BOX(&sparse_conv<CpuConvolution>));
  m.impl("sparse_conv_backward", TORCH_BOX(&sparse_conv_backward<CpuConvolution>));
}

}  // namespace fl::sparse
