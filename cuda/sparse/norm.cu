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

constexpr int kRowsAtOnce = 4;
constexpr int kPartsAtOnce = 4;
constexpr int64_t kMostParts = 256;
constexpr unsigned kMostColumns = 16;

struct RowSpan {
  int64_t begin, end;
};

template <int V, typename T>
FL_D void load_rows(Pack<T, V> (&packs)[kRowsAtOnce], const T* from, int64_t first, int64_t end,
                    int64_t channel, int64_t channels) {
  FL_UNROLL
  for (int k = 0; k < kRowsAtOnce; ++k) {
    const int64_t row = first + k * static_cast<int64_t>(blockDim.y);
    packs[k] = row < end ? load_pack<V>(from + row * channels + channel) : Pack<T, V>{};
  }
}

// Calls f(row, n) for the rows of this thread, kRowsAtOnce at a time and blockDim.y apart; n of
// them are there.
template <typename F>
FL_D void each_few_rows(RowSpan span, const F& f) {
  const int64_t apart = blockDim.y;
  for (int64_t row = span.begin + threadIdx.y; row < span.end; row += apart * kRowsAtOnce) {
    const int64_t left = (span.end - row + apart - 1) / apart;
    f(row, left < kRowsAtOnce ? static_cast<int>(left) : kRowsAtOnce);
  }
}

template <int V, typename T>
struct StatisticsTask {
  using S = Sum<T>;
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
    FL_D void join_rows(const Pack<T, V> (&packs)[kRowsAtOnce], int n) {
      State next;
      next.count = n;
      FL_UNROLL
      for (int v = 0; v < V; ++v) {
        S sum = S(0), squares = S(0);
        FL_UNROLL
        for (int k = 0; k < kRowsAtOnce; ++k) sum += k < n ? widen(packs[k].v[v]) : S(0);
        const S mean = sum / static_cast<S>(n);
        FL_UNROLL
        for (int k = 0; k < kRowsAtOnce; ++k) {
          const S distance = k < n ? widen(packs[k].v[v]) - mean : S(0);
          squares += distance * distance;
        }
        next.moments[v] = {mean, squares};
      }
      join_next(next);
    }
  };

  FL_D State reduce(RowSpan span, int64_t channel) const {
    State state{};
    each_few_rows(span, [&](int64_t row, int n) {
      Pack<T, V> packs[kRowsAtOnce];
      load_rows(packs, a.features, row, span.end, channel, a.channels);
      state.join_rows(packs, n);
    });
    return state;
  }
  FL_D void store(int64_t channel, const State& all) const {
    const S share = a.running.mean == nullptr ? S(0) : a.running.share();
    FL_UNROLL
    for (int v = 0; v < V; ++v) a.store(channel + v, all.moments[v], share);
  }
  // By one thread, once all is stored.
  FL_D void finish() const {
    if (a.running.tracked != nullptr) ++*a.running.tracked;
  }
};

// The gradient of z at the rows that a thread holds.
template <int V, typename T>
struct GradientRows {
  Pack<T, V> gradient[kRowsAtOnce], features[kRowsAtOnce], beside[kRowsAtOnce] = {};

  FL_D GradientRows(const NormGradientArgs<T>& a, int64_t row, int64_t end, int64_t channel) {
    const int64_t channels = a.forward.channels;
    const T* const other = a.out != nullptr ? a.out : a.forward.residual;
    load_rows(gradient, a.gradient, row, end, channel, channels);
    load_rows(features, a.forward.features, row, end, channel, channels);
    if (other != nullptr && a.forward.activation != Activation::none)
      load_rows(beside, other, row, end, channel, channels);
  }
  FL_D Sum<T> operator()(const NormGradientArgs<T>& a, const ChannelScale<Sum<T>>& scale, int k,
                         int v) const {
    const NormArgs<T>& forward = a.forward;
    const Sum<T> g = widen(gradient[k].v[v]);
    if (forward.activation == Activation::none) return g;
    if (a.out != nullptr)
      return activation_vjp_of_output(forward.activation, widen(beside[k].v[v]), forward.slope, g);
    Sum<T> z = scale(widen(features[k].v[v]));
    if (forward.residual != nullptr) z += widen(beside[k].v[v]);
    return activation_vjp(forward.activation, z, forward.slope, g);
  }
};

template <int V, typename T>
FL_D void load_scales(ChannelScale<Sum<T>> (&scales)[V], const NormArgs<T>& a, int64_t channel) {
  FL_UNROLL
  for (int v = 0; v < V; ++v) scales[v] = a.scale_of(channel + v);
}

template <int V, typename T>
FL_D void store_rows(T* to, const Pack<T, V> (&packs)[kRowsAtOnce], int64_t first, int n,
                     int64_t channel, int64_t channels) {
  FL_UNROLL
  for (int k = 0; k < kRowsAtOnce; ++k)
    if (k < n)
      store_pack<V>(to + (first + k * static_cast<int64_t>(blockDim.y)) * channels + channel,
                    packs[k]);
}

// Sums of the gradient of z, and of its products with x - mean.
template <int V, typename T>
struct GradientTask {
  using S = Sum<T>;
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

  FL_D State reduce(RowSpan span, int64_t channel) const {
    State state{};
    ChannelScale<S> scales[V];
    load_scales(scales, a.forward, channel);
    each_few_rows(span, [&](int64_t row, int n) {
      const GradientRows<V, T> rows(a, row, span.end, channel);
      Pack<T, V> packs[kRowsAtOnce] = {};
      FL_UNROLL
      for (int k = 0; k < kRowsAtOnce; ++k) FL_UNROLL
      for (int v = 0; v < V; ++v) {
        if (k >= n) continue;
        const S g = rows(a, scales[v], k, v);
        state.sums[v] += g;
        state.products[v] += g * (widen(rows.features[k].v[v]) - scales[v].mean);
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

// How rows are cut into parts, and channels into columns of blocks.
template <int V>
struct PartShape {
  RowShape rows;
  int64_t packs, columns, part_rows, parts;

  PartShape(int64_t n, int64_t channels) : rows(channels, V, kMostColumns), packs(channels / V) {
    columns = (packs + rows.block.x - 1) / rows.block.x;
    const int64_t least = static_cast<int64_t>(rows.block.y) * kRowsAtOnce;
    const int64_t wanted = (n + kMostParts - 1) / kMostParts;
    part_rows = (wanted + least - 1) / least * least;
    parts = (n + part_rows - 1) / part_rows;
  }
  dim3 grid() const { return dim3(static_cast<unsigned>(parts), static_cast<unsigned>(columns)); }
  // A multiple of 16, for states lie behind them.
  std::size_t counter_bytes() const { return (columns + 4) / 4 * 4 * sizeof(unsigned); }
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
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2)
    sum_rows_kernel(Task task, PartMemory<typename Task::State> memory) {
  using State = typename Task::State;
  FL_SHARED(unsigned char, bytes, sizeof(State) * kRowThreads);
  FL_SHARED(int, answer, 1);
  State* const states = reinterpret_cast<State*>(&bytes[0]) + threadIdx.x;
  const int64_t pack = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  const bool inside = pack < memory.packs, first = threadIdx.y == 0 && inside;
  join_threads(inside ? task.reduce(memory.span(blockIdx.x), pack * V) : State{}, states);
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
  FL_LAUNCH((sum_rows_kernel<V, Task>), shape.grid(), shape.rows.block, 0, stream, task, memory);
}

// Calls f(channel) with the first of this thread's channels, if there is one.
template <int V, typename F>
FL_D void each_column(int64_t channels, const F& f) {
  const int64_t channel =
      (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * static_cast<int64_t>(V);
  if (channel < channels) f(channel);
}

FL_D RowSpan span_of_block(int64_t n) {
  const int64_t rows = (n + gridDim.x - 1) / gridDim.x, begin = rows * blockIdx.x;
  return {begin, begin + rows < n ? begin + rows : n};
}

template <int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) normalise_kernel(NormArgs<T> a, T* out) {
  using S = Sum<T>;
  each_column<V>(a.channels, [&](int64_t channel) {
    ChannelScale<S> scales[V];
    load_scales(scales, a, channel);
    const RowSpan span = span_of_block(a.n);
    each_few_rows(span, [&](int64_t row, int n) {
      Pack<T, V> packs[kRowsAtOnce], residual[kRowsAtOnce] = {};
      load_rows(packs, a.features, row, span.end, channel, a.channels);
      if (a.residual != nullptr)
        load_rows(residual, a.residual, row, span.end, channel, a.channels);
      FL_UNROLL
      for (int k = 0; k < kRowsAtOnce; ++k) FL_UNROLL
      for (int v = 0; v < V; ++v) {
        if (k >= n) continue;
        S z = scales[v](widen(packs[k].v[v]));
        if (a.residual != nullptr) z += widen(residual[k].v[v]);
        narrow(activate(a.activation, z, a.slope), packs[k].v[v]);
      }
      store_rows(out, packs, row, n, channel, a.channels);
    });
  });
}

template <int V, typename T>
FL_KERNEL FL_LAUNCH_BOUNDS(kRowThreads, 2) gradient_kernel(NormGradientArgs<T> a) {
  using S = Sum<T>;
  each_column<V>(a.forward.channels, [&](int64_t channel) {
    ChannelScale<S> scales[V];
    ChannelGradient<S> gradients[V];
    load_scales(scales, a.forward, channel);
    FL_UNROLL
    for (int v = 0; v < V; ++v) gradients[v] = a.gradient_of(channel + v);
    const RowSpan span = span_of_block(a.forward.n);
    each_few_rows(span, [&](int64_t row, int n) {
      const GradientRows<V, T> rows(a, row, span.end, channel);
      Pack<T, V> packs[kRowsAtOnce] = {};
      FL_UNROLL
      for (int k = 0; k < kRowsAtOnce; ++k) FL_UNROLL
      for (int v = 0; v < V; ++v) {
        if (k >= n) continue;
        const S distance = widen(rows.features[k].v[v]) - scales[v].mean;
        const S g = rows(a, scales[v], k, v) - gradients[v].offset - distance * gradients[v].slope;
        narrow(scales[v].scale * g, packs[k].v[v]);
      }
      store_rows(a.g_features, packs, row, n, channel, a.forward.channels);
    });
  });
}

template <int V, typename Kernel, typename... Arguments>
void launch_over_rows(Kernel kernel, int64_t n, int64_t channels, Stream stream,
                      const Arguments&... arguments) {
  constexpr int64_t most_blocks = 1024;
  const PartShape<V> shape(n, channels);
  const int64_t least = static_cast<int64_t>(shape.rows.block.y) * kRowsAtOnce;
  const int64_t blocks = (n + least - 1) / least;
  const dim3 grid(static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks),
                  static_cast<unsigned>(shape.columns));
  FL_LAUNCH(kernel, grid, shape.rows.block, 0, stream, arguments...);
}

template <typename... Pointers>
bool all_aligned(Pointers... pointers) {
  return (is_aligned(pointers) && ...);
}

struct CudaNorm {
  template <typename T>
  static void statistics(const StatisticsArgs<T>& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_width<T>(a.channels, is_aligned(a.features), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      sum_rows<kWidth>(StatisticsTask<kWidth, T>{a}, a.n, a.channels, stream);
    });
  }

  template <typename T>
  static void forward(const NormArgs<T>& a, T* out, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    dispatch_width<T>(a.channels, all_aligned(a.features, a.residual, out), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      launch_over_rows<kWidth>(normalise_kernel<kWidth, T>, a.n, a.channels, stream, a, out);
    });
  }

  template <typename T>
  static void backward(const NormGradientArgs<T>& a, const Tensor& like) {
    const DeviceGuard guard(like.get_device_index());
    const Stream stream = current_stream(like.get_device_index());
    const int64_t n = a.forward.n, channels = a.forward.channels;
    const bool aligned = all_aligned(a.forward.features, a.forward.residual, a.gradient, a.out,
                                     a.g_features, a.g_residual);
    dispatch_width<T>(channels, aligned, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      sum_rows<kWidth>(GradientTask<kWidth, T>{a}, n, channels, stream);
      launch_over_rows<kWidth>(gradient_kernel<kWidth, T>, n, channels, stream,
                               a.from_gradient_of_z());
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
