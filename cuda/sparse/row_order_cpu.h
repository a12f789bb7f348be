// SPDX-License-Identifier: Apache-2.0
//
// Puts the pairs of one tap in the order of a row number. Most taps have them in order already;
// the others are laid out on one bit a row and read back, in time linear in rows / 64 and pairs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

namespace fl::sparse {

class RowOrder {
 public:
  explicit RowOrder(int64_t rows) : rows_(rows) {}

  // Sorts both lists by `keys`, stable.
  void sort(int32_t* keys, int32_t* values, int64_t count) {
    if (std::is_sorted(keys, keys + count)) return;
    if (!lay_out(keys, values, count)) return sort_repeated(keys, values, count);
    int64_t next = 0;
    for (std::size_t word = 0; word < bits_.size(); ++word)
      for (uint64_t bits = std::exchange(bits_[word], 0); bits != 0; bits &= bits - 1) {
        const int32_t row = static_cast<int32_t>(64 * word + __builtin_ctzll(bits));
        keys[next] = row;
        values[next++] = values_[row];
      }
  }

 private:
  // False where two pairs have the same row.
  bool lay_out(const int32_t* keys, const int32_t* values, int64_t count) {
    bits_.assign((rows_ + 63) / 64, 0);
    values_.resize(rows_);
    uint64_t repeated = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint64_t& word = bits_[keys[i] / 64];
      const uint64_t bit = uint64_t{1} << (keys[i] % 64);
      repeated |= word & bit;
      word |= bit;
      values_[keys[i]] = values[i];
    }
    return repeated == 0;
  }

  static void sort_repeated(int32_t* keys, int32_t* values, int64_t count) {
    std::vector<std::pair<int32_t, int32_t>> pairs(count);
    for (int64_t i = 0; i < count; ++i) pairs[i] = {keys[i], values[i]};
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (int64_t i = 0; i < count; ++i) std::tie(keys[i], values[i]) = pairs[i];
  }

  int64_t rows_;
  std::vector<uint64_t> bits_;
  std::vector<int32_t> values_;
};

}  // namespace fl::sparse
