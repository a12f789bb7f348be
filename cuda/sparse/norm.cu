// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of batch normalisation. Sums over rows: a block takes a part of the rows, its
// threads join in a tree, and the block that comes last joins the parts, in their order. What is
// then done to each row is one launch more.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/norm_entry.h"
#include "sparse/rows_cuda.h"

namespace fl::sparse {
namespace {

// Of each list of rows that a thread reads; of a list by itself, twice as many.
constexpr int kRowsAtOnce = 4;
constexpr int kPartsAtOnce = 4;
constexpr int64_t kMostPacks = 32;  // of a row, in a block
constexpr int64_t kMostChannels = 4 * kMostPacks;

// Blocks that a GPU of 132 multiprocessors holds at once; more would wait for these.
constexpr int64_t kMultiprocessors = 132;
constexpr int64_t kMostParts = kMultiprocessors;  // few, for one block joins them
constexpr int kSumThreads = 512, kNormaliseBlocks = 4, kGradientBlocks = 3;

struct RowSpan {
  int64_t begin, end;
};

template <int V, int kRows, typename T>
FL_D void load_rows(Pack<T, V> (&packs)[kRows], const T* from, int64_t first, int64_t end,
                    int64_t channel, int64_t channels) {
  FL_UNROLL
  for (int k = 0; k < kRows; ++k) {
    const int64_t row = first + k * static_cast<int64_t>(blockDim.y);
    packs[k] = row < end ? load_pack<V>(from + row * channels + channel) : Pack<T, V>{};
  }
}

// Calls f(row, n) for the rows of this thread, kRows at a time and blockDim.y apart; n of
// them are there.
template <int kRows, typename F>
FL_D void each_few_rows(RowSpan span, const F& f) {
  const int64_t apart = blockDim.y;
  for (int64_t row = span.begin + threadIdx.y; row < span.end; row += apart * kRows) {
    const int64_t left = (span.end - row + apart - 1) / apart;
    f(row, left < kRows ? static_cast<int>(left) : kRows);
  }
}

// Values of the channels of a block: each is worked out by one thread and read by those below it.
template <typename S, int kLists>
struct ChannelMemory {
  S* values;

  // f(channel) gives kLists values.
  template <int V, typename F>
  FL_D void fill(int64_t channels, const F& f) const {
    const int width = static_cast<int>(blockDim.x) * V;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * width;
    const int threads = static_cast<int>(blockDim.x * blockDim.y);
    for (int c = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); c < width;
         c += threads) {
      if (first + c >= channels) break;
      S found[kLists];
      f(first + c, found);
      FL_UNROLL
      for (int k = 0; k < kLists; ++k) values[k * kMostChannels + c] = found[k];
    }
    __syncthreads();
  }
  template <int V>
  FL_D void read(int list, S (&mine)[V]) const {
    const Pack<S, V> pack = load_pack<V>(values + list * kMostChannels + threadIdx.x * V);
    FL_UNROLL
    for (int v = 0; v < V; ++v) mine[v] = pack.v[v];
  }
};

// (x - mean) * scale + shift for the channels of a thread.
template <int V, typename S>
struct Scales {
  S mean[V], scale[V], shift[V];

  template <int kLists>
  FL_D explicit Scales(const ChannelMemory<S, kLists>& memory) {
    memory.template read<V>(0, mean);
    memory.template read<V>(1, scale);
    memory.template read<V>(2, shift);
  }
  FL_D S operator()(S x, int v) const { return ChannelScale<S>{mean[v], scale[v], shift[v]}(x); }
};

template <typename T>
struct ScaleOf {
  NormArgs<T> a;
  FL_D void operator()(int64_t channel, Sum<T>* found) const {
    const ChannelScale<Sum<T>> scale = a.scale_of(channel);
    found[0] = scale.mean, found[1] = scale.scale, found[2] = scale.shift;
  }
};

template <typename T>
struct GradientOf {
  NormGradientArgs<T> a;
  FL_D void operator()(int64_t channel, Sum<T>* found) const {
    ScaleOf<T>{a.forward}(channel, found);
    const ChannelGradient<Sum<T>> gradient = a.gradient_of(channel);
    found[3] = gradient.offset, found[4] = gradient.slope;
  }
};

template <int V, typename T>
struct StatisticsTask {
  using S = Sum<T>;
  static constexpr int kLists = 0, kRows = 2 * kRowsAtOnce;
  StatisticsArgs<T> a;

  struct State {
    Moments<S> moments[V];
    int64_t count;

    FL_D void join_next(const State& next) {
      if (next.count == 0) return;
      const JoinWeights<S> weights(count, next.count);
      FL_UNROLL
      for (int v = 0; v < V; ++v) join(moments[v], next.moments[v], weights);
      count += next.count;
    }
    FL_D void join_rows(const Pack<T, V> (&packs)[kRows], int n, const Pack<T, V>& origin) {
      State next;
      next.count = n;
      FL_UNROLL
      for (int v = 0; v < V; ++v) {
        S sum = S(0), squares = S(0), values[kRows];
        FL_UNROLL
        for (int k = 0; k < kRows; ++k) {
          values[k] = k < n ? widen(packs[k].v[v]) - widen(origin.v[v]) : S(0);
          sum += values[k];
        }
        const S mean = sum / static_cast<S>(n);
        FL_UNROLL
        for (int k = 0; k < kRows; ++k) {
          const S distance = k < n ? values[k] - mean : S(0);
          squares += distance * distance;
        }
        next.moments[v] = {mean, squares};
      }
      join_next(next);
    }
  };

  FL_D void prepare(const ChannelMemory<S, kLists>&) const {}
  // Moments about the first row: means far from zero would lose digits each time they are joined.
  FL_D State reduce(RowSpan span, int64_t channel, const ChannelMemory<S, kLists>&) const {
    State state{};
    const Pack<T, V> origin = load_pack<V>(a.features + channel);
    each_few_rows<kRows>(span, [&](int64_t row, int n) {
      Pack<T, V> packs[kRows];
      load_rows(packs, a.features, row, span.end, channel, a.channels);
      state.join_rows(packs, n, origin);
    });
    return state;
  }
  FL_D void store(int64_t channel, const State& all) const {
    const S share = a.running.mean == nullptr ? S(0) : a.running.share();
    FL_UNROLL
    for (int v = 0; v < V; ++v) {
      Moments<S> moments = all.moments[v];
      moments.mean += widen(a.features[channel + v]);
      a.store(channel + v, moments, share);
    }
  }
  // By one thread, once all is stored.
  FL_D void finish() const {
    if (a.running.tracked != nullptr) ++*a.running.tracked;
  }
};

// Which activation a kernel was made for; -1: any.
template <int kKind, typename T>
FL_D Activation kind_of(const NormArgs<T>& a) {
  return kKind < 0 ? a.activation : static_cast<Activation>(kKind);
}

// The gradient of z at the rows that a thread holds.
template <int V, int kKind, typename T>
struct GradientRows {
  Pack<T, V> gradient[kRowsAtOnce], features[kRowsAtOnce], beside[kRowsAtOnce] = {};

  FL_D GradientRows(const NormGradientArgs<T>& a, int64_t row, int64_t end, int64_t channel) {
    const int64_t channels = a.forward.channels;
    const T* const other = a.out != nullptr ? a.out : a.forward.residual;
    load_rows(gradient, a.gradient, row, end, channel, channels);
    load_rows(features, a.forward.features, row, end, channel, channels);
    if (other != nullptr && kind_of<kKind>(a.forward) != Activation::none)
      load_rows(beside, other, row, end, channel, channels);
  }
  FL_D Sum<T> operator()(const NormGradientArgs<T>& a, const Scales<V, Sum<T>>& scales, int k,
                         int v) const {
    const NormArgs<T>& forward = a.forward;
    const Activation kind = kind_of<kKind>(forward);
    const Sum<T> g = widen(gradient[k].v[v]);
    if (kind == Activation::none) return g;
    if (a.out != nullptr)
      return activation_vjp_of_output(kind, widen(beside[k].v[v]), forward.slope, g);
    Sum<T> z = scales(widen(features[k].v[v]), v);
    if (forward.residual != nullptr) z += widen(beside[k].v[v]);
    return activation_vjp(kind, z, forward.slope, g);
  }
};

template <int V, int kRows, typename T>
FL_D void store_rows(T* to, const Pack<T, V> (&packs)[kRows], int64_t first, int n, int64_t channel,
                     int64_t channels) {
  FL_UNROLL
  for (int k = 0; k < kRows; ++k)
    if (k < n)
      store_pack<V>(to + (first + k * static_cast<int64_t>(blockDim.y)) * channels + channel,
                    packs[k]);
}

// Sums of the gradient of z, and of its products with x - mean.
template <int V, int kKind, typename T>
struct GradientTask {
  using S = Sum<T>;
  static constexpr int kLists = 3, kRows = kRowsAtOnce;
  NormGradientArgs<T> a;

  struct State {
    S sums[V], products[V];

    FL_D void join_next(const State& next) {
      FL_UNROLL
      for (int v = 0; v < V; ++v) {
        sums[v] += next.sums[v];
        products[v] += next.products[v];
      }
    }
  };

  FL_D void prepare(const ChannelMemory<S, kLists>& memory) const {
    memory.template fill<V>(a.forward.channels, ScaleOf<T>{a.forward});
  }
  FL_D State reduce(RowSpan span, int64_t channel, const ChannelMemory<S, kLists>& memory) const {
    State state{};
    const Scales<V, S> scales(memory);
    each_few_rows<kRows>(span, [&](int64_t row, int n) {
      const GradientRows<V, kKind, T> rows(a, row, span.end, channel);
      Pack<T, V> packs[kRows] = {};
      FL_UNROLL
      for (int k = 0; k < kRows; ++k) FL_UNROLL
      for (int v = 0; v < V; ++v) {
        if (k >= n) continue;
        const S g = rows(a, scales, k, v);
        state.sums[v] += g;
        state.products[v] += g * (widen(rows.features[k].v[v]) - scales.mean[v]);
        narrow(g, packs[k].v[v]);
      }
      if (a.g_residual != nullptr)
        store_rows(a.g_residual, packs, row, n, channel, a.forward.channels);
    });
    return state;
  }
  FL_D void store(int64_t channel, const State& all) const {
    FL_UNROLL
    for (int v = 0; v < V; ++v) a.store_sums(channel + v, all.sums[v], all.products[v]);
  }
  FL_D void finish() const {}
};

// A thread has V channels, and those of a block lie side by side: no lane idles, whatever the width
// of a row. Channels beyond a block's are another column of blocks.
template <int V>
struct NormShape {
  int64_t packs, columns;
  dim3 block;

  NormShape(int64_t channels, int64_t threads) : packs(channels / V) {
    columns = (packs + kMostPacks - 1) / kMostPacks;
    const int64_t width = columns > 0 ? (packs + columns - 1) / columns : 1;
    block = dim3(static_cast<unsigned>(width), static_cast<unsigned>(threads / width));
  }
  dim3 grid(int64_t blocks) const {
    return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(columns));
  }
};

// How rows are cut into parts whose sums are joined.
template <int V>
struct PartShape : NormShape<V> {
  int64_t part_rows, parts;

  PartShape(int64_t n, int64_t channels) : NormShape<V>(channels, kSumThreads) {
    const int64_t columns = this->columns, rows = this->block.y;
    const int64_t most = columns < kMostParts ? kMostParts / (columns > 0 ? columns : 1) : 1;
    part_rows = ((n + most - 1) / most + rows - 1) / rows * rows;
    parts = (n + part_rows - 1) / part_rows;
  }
  // A multiple of 64, for states lie behind them.
  std::size_t counter_bytes() const { return (this->columns + 16) / 16 * 16 * sizeof(unsigned); }
};

template <typename State>
struct PartMemory {
  State* states;      // [parts, packs]
  unsigned* arrived;  // [columns], blocks that are done; then the columns that are
  int64_t n, part_rows, packs;

  FL_D RowSpan span(int64_t part) const {
    const int64_t begin = part * part_rows, end = begin + part_rows;
    return {begin, end < n ? end : n};
  }
};

// Joins the states of the threads above each other, in order; the first of them has the result.
template <typename State>
FL_D void join_threads(const State& mine, State* states) {
  const unsigned width = blockDim.x, y = threadIdx.y;
  states[y * width] = mine;
  for (unsigned distance = 1; distance < blockDim.y; distance *= 2) {
    __syncthreads();
    if (y % (2 * distance) == 0 && y + distance < blockDim.y)
      states[y * width].join_next(states[(y + distance) * width]);
  }
  __syncthreads();
}

template <typename State>
FL_D State join_parts(const PartMemory<State>& memory, int64_t pack) {
  const int64_t begin = static_cast<int64_t>(gridDim.x) * threadIdx.y / blockDim.y;
  const int64_t end = static_cast<int64_t>(gridDim.x) * (threadIdx.y + 1) / blockDim.y;
  State all{};
  for (int64_t first = begin; first < end; first += kPartsAtOnce) {
    State next[kPartsAtOnce];
    FL_UNROLL
    for (int k = 0; k < kPartsAtOnce; ++k)
      next[k] = first + k < end ? memory.states[(first + k) * memory.packs + pack] : State{};
    FL_UNROLL
    for (int k = 0; k < kPartsAtOnce; ++k) all.join_next(next[k]);
  }
  return all;
}

// True in the last of `count` blocks that come here; it sees what the others have written.
FL_D bool comes_last(unsigned* arrived, unsigned count, int* answer) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) *answer = atomicAdd(arrived, 1u) == count - 1;
  __syncthreads();
  __threadfence();
  return *answer != 0;
}

template <int V, typename Task>
FL_KERNEL FL_LAUNCH_BOUNDS(kSumThreads, 1)
    sum_rows_kernel(Task task, PartMemory<typename Task::State> memory) {
  using State = typename Task::State;
  FL_SHARED(unsigned char, bytes, sizeof(State) * kSumThreads);
  FL_SHARED(int, answer, 1);
  State* const states = reinterpret_cast<State*>(&bytes[0]) + threadIdx.x;
  const int64_t pack = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  const bool inside = pack < memory.packs, first = threadIdx.y == 0 && inside;
  FL_SHARED(typename Task::S, values, Task::kLists * kMostChannels + 1);
  const ChannelMemory<typename Task::S, Task::kLists> channels{&values[0]};
  task.prepare(channels);
  join_threads(inside ? task.reduce(memory.span(blockIdx.x), pack * V, channels) : State{}, states);
  if (gridDim.x > 1) {
    if (first) memory.states[blockIdx.x * memory.packs + pack] = states[0];
    if (!comes_last(memory.arrived + blockIdx.y, gridDim.x, &answer[0])) return;
    join_threads(inside ? join_parts(memory, pack) : State{}, states);
  }
  if (first) task.store(pack * V, states[0]);
  if (!comes_last(memory.arrived + gridDim.y, gridDim.y, &answer[0])) return;
  if (threadIdx.x == 0 && threadIdx.y == 0) task.finish();
}

template <int V, typename Task>
void sum_rows(const Task& task, int64_t n, int64_t channels, Stream stream) {
  using State = typename Task::State;
  const PartShape<V> shape(n, channels);
  const std::size_t head = shape.counter_bytes();
  const Scratch scratch(head + (shape.parts > 1 ? shape.parts * shape.packs * sizeof(State) : 0));
  unsigned char* const bytes = scratch.data<unsigned char>();
  zero_async(bytes, head, stream);
  const PartMemory<State> memory{reinterpret_cast<State*>(bytes + head),
                                 reinterpret_cast<unsigned*>(bytes), n, shape.part_rows,
                                 shape.packs};
  FL_LAUNCH((sum_rows_kernel<V, Task>), shape.grid(shape.parts), shape.block, 0, stream, task,
            memory);
}

FL_D RowSpan span_of_block(int64_t n) {
  const int64_t rows = (n + gridDim.x - 1) / gridDim.x, begin = rows * blockIdx.x;
  return {begin, begin + rows < n ? begin + rows : n};
}

FL_D int64_t this_channel(int width) {
  return (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * width;
}

template <int V, int kKind, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, kNormaliseBlocks) normalise_kernel(NormArgs<T> a, T* out) {
  using S = Sum<T>;
  constexpr int kLists = 3;
  FL_SHARED(S, values, kLists * kMostChannels);
  const ChannelMemory<S, kLists> memory{&values[0]};
  memory.template fill<V>(a.channels, ScaleOf<T>{a});
  const int64_t channel = this_channel(V);
  if (channel >= a.channels) return;
  const Scales<V, S> scales(memory);
  const RowSpan span = span_of_block(a.n);
  each_few_rows<kRowsAtOnce>(span, [&](int64_t row, int n) {
    Pack<T, V> packs[kRowsAtOnce], residual[kRowsAtOnce] = {};
    load_rows(packs, a.features, row, span.end, channel, a.channels);
    if (a.residual != nullptr) load_rows(residual, a.residual, row, span.end, channel, a.channels);
    FL_UNROLL
    for (int k = 0; k < kRowsAtOnce; ++k) FL_UNROLL
    for (int v = 0; v < V; ++v) {
      S z = scales(widen(packs[k].v[v]), v);
      if (a.residual != nullptr) z += widen(residual[k].v[v]);
      narrow(activate(kind_of<kKind>(a), z, a.slope), packs[k].v[v]);
    }
    store_rows(out, packs, row, n, channel, a.channels);
  });
}

template <int V, int kKind, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, kGradientBlocks) gradient_kernel(NormGradientArgs<T> a) {
  using S = Sum<T>;
  constexpr int kLists = 5;
  FL_SHARED(S, values, kLists * kMostChannels);
  const ChannelMemory<S, kLists> memory{&values[0]};
  memory.template fill<V>(a.forward.channels, GradientOf<T>{a});
  const int64_t channel = this_channel(V);
  if (channel >= a.forward.channels) return;
  const Scales<V, S> scales(memory);
  S offset[V], slope[V];
  memory.template read<V>(3, offset);
  memory.template read<V>(4, slope);
  const RowSpan span = span_of_block(a.forward.n);
  each_few_rows<kRowsAtOnce>(span, [&](int64_t row, int n) {
    const GradientRows<V, kKind, T> rows(a, row, span.end, channel);
    Pack<T, V> packs[kRowsAtOnce];
    FL_UNROLL
    for (int k = 0; k < kRowsAtOnce; ++k) FL_UNROLL
    for (int v = 0; v < V; ++v) {
      const S distance = widen(rows.features[k].v[v]) - scales.mean[v];
      const S g = rows(a, scales, k, v) - offset[v] - distance * slope[v];
      narrow(scales.scale[v] * g, packs[k].v[v]);
    }
    store_rows(a.g_features, packs, row, n, channel, a.forward.channels);
  });
}

template <int V, typename Kernel, typename... Arguments>
void launch_over_rows(Kernel kernel, int blocks_each, int64_t n, int64_t channels, Stream stream,
                      const Arguments&... arguments) {
  const NormShape<V> shape(channels, kRowThreads);
  const int64_t rows = static_cast<int64_t>(shape.block.y) * kRowsAtOnce;
  const int64_t wanted = (n + rows - 1) / rows;
  const int64_t most = (blocks_each * kMultiprocessors + shape.columns - 1) / shape.columns;
  FL_LAUNCH(kernel, shape.grid(wanted < most ? wanted : most), shape.block, 0, stream,
            arguments...);
}

template <typename... Pointers>
bool all_aligned(Pointers... pointers) {
  return (is_aligned(pointers) && ...);
}

// Calls f(std::integral_constant<int, kKind>).
template <typename F>
void dispatch_kind(Activation kind, const F& f) {
  if (kind == Activation::none)
    f(std::integral_constant<int, static_cast<int>(Activation::none)>{});
  else if (kind == Activation::relu)
    f(std::integral_constant<int, static_cast<int>(Activation::relu)>{});
  else
    f(std::integral_constant<int, -1>{});
}

// As dispatch_width, of at most 4 channels: more threads with few values each hide more latency
// than fewer with many.
template <typename T, typename F>
void dispatch_narrow_width(int64_t channels, bool aligned, const F& f) {
  constexpr int kWidest = sizeof(T) == 8 ? 2 : 4;
  if (aligned && channels % kWidest == 0)
    f(std::integral_constant<int, kWidest>{});
  else
    f(std::integral_constant<int, 1>{});
}

struct CudaNorm {
  template <typename T>
  static void statistics(const StatisticsArgs<T>& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_narrow_width<T>(a.channels, is_aligned(a.features), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      sum_rows<kWidth>(StatisticsTask<kWidth, T>{a}, a.n, a.channels, stream);
    });
  }

  template <typename T>
  static void forward(const NormArgs<T>& a, T* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_narrow_width<T>(a.channels, all_aligned(a.features, a.residual, out), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      dispatch_kind(a.activation, [&](auto kind) {
        constexpr int kKind = decltype(kind)::value;
        launch_over_rows<kWidth>(normalise_kernel<kWidth, kKind, T>, kNormaliseBlocks, a.n,
                                 a.channels, stream, a, out);
      });
    });
  }

  template <typename T>
  static void backward(const NormGradientArgs<T>& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = a.forward.n, channels = a.forward.channels;
    const bool aligned = all_aligned(a.forward.features, a.forward.residual, a.gradient, a.out,
                                     a.g_features, a.g_residual);
    dispatch_narrow_width<T>(channels, aligned, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      dispatch_kind(a.forward.activation, [&](auto kind) {
        constexpr int kKind = decltype(kind)::value;
        sum_rows<kWidth>(GradientTask<kWidth, kKind, T>{a}, n, channels, stream);
      });
      const NormGradientArgs<T> next = a.from_gradient_of_z();
      dispatch_kind(next.forward.activation, [&](auto kind) {
        constexpr int kKind = decltype(kind)::value;
        launch_over_rows<kWidth>(gradient_kernel<kWidth, kKind, T>, kGradientBlocks, n, channels,
                                 stream, next);
      });
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_batch_statistics", TORCH_BOX(&sparse_batch_statistics<CudaNorm>));
  m.impl("sparse_batch_norm", TORCH_BOX(&sparse_batch_norm<CudaNorm>));
  m.impl("sparse_batch_norm_training", TORCH_BOX(&sparse_batch_norm_training<CudaNorm>));
  m.impl("sparse_batch_norm_backward", TORCH_BOX(&sparse_batch_norm_backward<CudaNorm>));
}

}  // namespace fl::sparse
