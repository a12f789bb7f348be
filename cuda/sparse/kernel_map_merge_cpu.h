// SPDX-License-Identifier: Apache-2.0
//
// Kernel maps on the CPU by merging two sorted sets. Under one tap the coarse set is the same list
// of keys, shifted; walking it and the fine set side by side finds all its partners in linear time.
// Taps that differ only in the last axis make a line: their keys are next to each other, so one
// walk serves them all.
#pragma once

#include "sparse/coordinates_keys_cpu.h"

namespace fl::sparse {

// Positions in the two sorted sets.
struct Match {
  int32_t coarse, fine;
};

// Consecutive taps along the last axis.
template <int W>
struct Line {
  static constexpr int64_t kMostTaps = 8;

  Key<W> offset;  // of its first tap
  int64_t taps;
  uint64_t step;  // from tap to tap
};

// How far the first tap lies from a row, on a grid of stride 1.
template <int W>
Key<W> origin_key(const Reach& reach, const Layout& layout) {
  Key<W> key{};
  for (int c = 1; c < reach.columns; ++c)
    key.words[layout.word[c]] += static_cast<uint64_t>(reach.axes[c - 1].origin) << layout.shift[c];
  return key;
}

// The lines of all taps below an end; keys count from `origin`.
template <int W>
std::vector<Line<W>> lines_of(const Reach& reach, const Layout& layout, const Key<W>& origin,
                              int64_t end_tap) {
  const int last = reach.columns - 2;
  const int64_t length = reach.axes[last].taps;
  std::vector<Line<W>> lines;
  for (int64_t tap = 0; tap < end_tap;) {
    Line<W> line{};
    line.offset = origin;
    line.taps = std::min({length - tap % length, end_tap - tap, Line<W>::kMostTaps});
    line.step = static_cast<uint64_t>(reach.axes[last].dilation);
    int64_t rest = tap;
    for (int a = last; a >= 0; rest /= reach.axes[a].taps, --a) {
      const uint64_t reached =
          static_cast<uint64_t>(rest % reach.axes[a].taps * reach.axes[a].dilation);
      line.offset.words[layout.word[a + 1]] += reached << layout.shift[a + 1];
    }
    lines.push_back(line);
    tap += line.taps;
  }
  return lines;
}

// The first position from j on that is not below `key`; keys end with one above all.
template <int W>
int64_t advance(const Key<W>* keys, int64_t count, int64_t j, const Key<W>& key) {
  constexpr int steps = 12;
  for (int step = 0; step < steps; ++step, ++j)
    if (!(keys[j] < key)) return j;
  int64_t width = steps;
  for (; j + width < count && keys[j + width] < key; width *= 2) j += width;
  return std::lower_bound(keys + j, keys + std::min(j + width, count), key) - keys;
}

// Matches of coarse positions [begin, end) under one line; those of its tap t go to out[t].
template <int W>
void merge_line(const Key<W>* coarse, int64_t begin, int64_t end, const Key<W>* fine,
                int64_t n_fine, const Line<W>& line, Match* const* out, int64_t* counts) {
  const uint64_t span = line.step * static_cast<uint64_t>(line.taps - 1);
  int64_t j = std::lower_bound(fine, fine + n_fine, coarse[begin] + line.offset) - fine;
  for (int64_t i = begin; i < end; ++i) {
    const Key<W> key = coarse[i] + line.offset;
    j = advance(fine, n_fine, j, key);
    for (int64_t k = j; k < n_fine; ++k) {
      uint64_t tap = distance(fine[k], key);
      if (tap > span) break;
      if (line.step != 1) {
        if (tap % line.step != 0) continue;
        tap /= line.step;
      }
      out[tap][counts[tap]++] = {static_cast<int32_t>(i), static_cast<int32_t>(k)};
    }
  }
}

// Matches of all taps below an end, in ascending order; kept as they were found, by lines and by
// chunks of the coarse set.
class Matches {
 public:
  static constexpr int64_t kChunk = 4096;

  template <int W>
  Matches(const std::vector<Key<W>>& coarse, const std::vector<Key<W>>& fine,
          const std::vector<Line<W>>& lines) {
    const int64_t n_coarse = static_cast<int64_t>(coarse.size()) - 1;
    const int64_t n_fine = static_cast<int64_t>(fine.size()) - 1;
    chunks_ = (n_coarse + kChunk - 1) / kChunk;
    for (std::size_t l = 0; l < lines.size(); ++l)
      for (int64_t t = 0; t < lines[l].taps; ++t) places_.push_back({static_cast<int64_t>(l), t});
    found_.resize(lines.size() * chunks_);
    std::vector<std::vector<Match>> scratch(thread_count());
    parallel_dynamic(static_cast<int64_t>(found_.size()), [&](int64_t task, int64_t worker) {
      const Line<W>& line = lines[task / chunks_];
      const int64_t begin = task % chunks_ * kChunk, end = std::min(n_coarse, begin + kChunk);
      scratch[worker].resize(Line<W>::kMostTaps * kChunk);
      Match* out[Line<W>::kMostTaps];
      int64_t counts[Line<W>::kMostTaps] = {};
      for (int64_t t = 0; t < line.taps; ++t) out[t] = scratch[worker].data() + t * kChunk;
      merge_line(coarse.data(), begin, end, fine.data(), n_fine, line, out, counts);
      found_[task].keep(line.taps, out, counts);
    });
  }

  int64_t taps() const { return static_cast<int64_t>(places_.size()); }

  int64_t count(int64_t tap) const {
    int64_t sum = 0;
    for_parts(tap, [&](const Match* begin, const Match* end) { sum += end - begin; });
    return sum;
  }

  template <typename F>
  void for_each(int64_t tap, const F& f) const {
    for_parts(tap, [&](const Match* match, const Match* end) {
      for (; match != end; ++match) f(*match);
    });
  }

 private:
  struct Found {
    std::vector<Match> matches;
    std::array<int64_t, Line<1>::kMostTaps + 1> starts{};

    void keep(int64_t taps, Match* const* out, const int64_t* counts) {
      for (int64_t t = 0; t < taps; ++t) starts[t + 1] = starts[t] + counts[t];
      matches.reserve(starts[taps]);
      for (int64_t t = 0; t < taps; ++t) matches.insert(matches.end(), out[t], out[t] + counts[t]);
    }
  };
  struct Place {
    int64_t line, tap;
  };

  template <typename F>
  void for_parts(int64_t tap, const F& f) const {
    const Place place = places_[tap];
    for (int64_t c = 0; c < chunks_; ++c) {
      const Found& found = found_[place.line * chunks_ + c];
      f(found.matches.data() + found.starts[place.tap],
        found.matches.data() + found.starts[place.tap + 1]);
    }
  }

  int64_t chunks_ = 0;
  std::vector<Place> places_;
  std::vector<Found> found_;
};

}  // namespace fl::sparse
