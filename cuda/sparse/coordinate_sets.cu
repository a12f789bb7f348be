// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of sets that are reached from one another. What a wave of them may hold is packed
// into keys, the number of the set above the rest, sorted, and read once. How many rows a set has
// stays on the device, so that waves follow one another without the host: it gives room, and reads
// at the end what was found.
#include "core/device_guard.h"
#include "core/registration.h"
#include "core/sort_scan.h"
#include "sparse/coordinate_waves.h"
#include "sparse/coordinate_waves_wide.h"
#include "sparse/coordinates_cuda.h"
#include "sparse/jobs_cuda.h"

namespace fl::sparse {
namespace {

FL_KERNEL key_kernel(Wave wave, uint64_t* keys) {
  const int64_t i = this_thread();
  if (i >= wave.slots) return;
  const int set = wave.set_of(i);
  int32_t row[kMostColumns];
  uint64_t key = static_cast<uint64_t>(wave.count) << wave.key_bits;  // empty, above all others
  if (wave.read(set, i, row))
    key = static_cast<uint64_t>(set) << wave.key_bits | wave.sets[set].layout.pack_single(row);
  keys[i] = key;
}

FL_D int set_of_key(const Wave& wave, uint64_t key) {
  const uint64_t set = key >> wave.key_bits;
  return set < static_cast<uint64_t>(wave.count) ? static_cast<int>(set) : wave.count;
}

FL_KERNEL write_kernel(Wave wave, WaveRows out, const uint64_t* keys, const int64_t* count) {
  const int64_t i = this_thread();
  if (i >= wave.slots || i >= *count) return;
  const int set = set_of_key(wave, keys[i]);
  out.mark(i, i > 0 ? set_of_key(wave, keys[i - 1]) : -1, set, i + 1 == *count, wave.count);
  if (set == wave.count || i >= out.room) return;
  wave.sets[set].layout.unpack_single(keys[i], out.rows + i * wave.columns);
}

struct CopyJob {
  const int32_t* from;
  int32_t* to;
  int64_t count;
};

FL_KERNEL copy_kernel(FL_GRID_CONSTANT Jobs<CopyJob> jobs) {
  int64_t block;
  const CopyJob& job = jobs.mine(&block);
  const int64_t i = block * kThreads + threadIdx.x;
  if (i < job.count) job.to[i] = job.from[i];
}

int set_bits(const Wave& wave) {
  int bits = 1;
  while (wave.count >> bits != 0) ++bits;
  return bits;
}

void make_narrow(const Wave& wave, const WaveRows& out, Stream stream) {
  const Scratch memory(2 * sizeof(uint64_t) * wave.slots + sizeof(int64_t));
  uint64_t* keys = memory.data<uint64_t>();
  uint64_t* sorted = keys + wave.slots;
  int64_t* count = reinterpret_cast<int64_t*>(sorted + wave.slots);
  FL_LAUNCH(key_kernel, blocks_for(wave.slots), kThreads, 0, stream, wave, keys);
  sort_keys(keys, sorted, wave.slots, 0, wave.key_bits + set_bits(wave), stream);
  select_distinct(sorted, keys, count, wave.slots, stream);
  FL_LAUNCH(write_kernel, blocks_for(wave.slots), kThreads, 0, stream, wave, out, keys, count);
}

// Which sets are made together, from which base, and the memory that they take.
struct WavePlan {
  int base;  // a set, or -1 for the coordinates that were given
  std::vector<int> sets;
  int64_t room = 0;
};

class SetTree {
 public:
  SetTree(const Tensor& coords, const std::vector<Link>& links, const Bounds& bounds)
      : coords_(coords), links_(links), rows_(coords.size(0)), members_(links.size()) {
    for (std::size_t set = 0; set < links.size(); ++set) {
      const int source = links[set].source;
      members_[set].bounds = links[set].reach.bound(source < 0 ? bounds : members_[source].bounds);
      members_[set].wave = join(static_cast<int>(set));
      members_[set].room = most_rows(static_cast<int>(set));
      // Coarse sets are seldom larger than twice the first one: more room is given when asked for.
      if (!links[set].reach.to_fine)
        members_[set].room = std::min(members_[set].room, 1024 + 2 * rows_);
    }
  }

  // Makes all sets; waits once, and once more for each time that there was too little room.
  std::vector<Tensor> make(Stream stream) {
    for (;;) {
      const std::vector<Tensor> rows = queue(stream);
      Numbers starts(links_.size() + waves_.size());
      copy_to_host(starts.data(), starts_.mutable_data_ptr(), sizeof(int64_t) * starts.size(),
                   stream);
      std::vector<Tensor> sets(links_.size());
      copies_.clear();
      if (!read(starts, rows, &sets)) continue;
      launch_jobs(
          copies_, [](const CopyJob& job) { return blocks_for(job.count); },
          [&](const Jobs<CopyJob>& batch, int64_t blocks) {
            FL_LAUNCH(copy_kernel, blocks, kThreads, 0, stream, batch);
          });
      return sets;
    }
  }

 private:
  struct Member {
    int wave = 0, place = 0;
    int64_t room = 0;
    Bounds bounds;
  };

  bool begins(int set) const {
    const int source = links_[set].source;
    return source < 0 || members_[source].wave != members_[set].wave;
  }

  int join(int set) {
    const int source = links_[set].source;
    const auto enter = [&](std::size_t wave) {
      members_[set].place = static_cast<int>(waves_[wave].sets.size());
      waves_[wave].sets.push_back(set);
      return static_cast<int>(wave);
    };
    const auto has_place = [&](std::size_t wave) {
      return waves_[wave].sets.size() < kMostWaveSets;
    };
    if (source >= 0 && links_[set].reach.per_row == 1 && has_place(members_[source].wave))
      return enter(members_[source].wave);
    for (std::size_t wave = 0; wave < waves_.size(); ++wave)
      if (waves_[wave].base == source && has_place(wave)) return enter(wave);
    waves_.push_back({source, {}});
    return enter(waves_.size() - 1);
  }

  int64_t base_room(int wave) const {
    const int base = waves_[wave].base;
    return base < 0 ? rows_ : members_[base].room;
  }

  // Slots that each row of the wave's base has in a set.
  uint32_t per_row(int set) const {
    while (!begins(set)) set = links_[set].source;
    return links_[set].reach.per_row;
  }

  int64_t most_rows(int set) const {
    const int64_t slots = base_room(members_[set].wave) * per_row(set);
    return std::min<int64_t>(slots, std::numeric_limits<int32_t>::max());
  }

  // Where the starts of a wave's sets, and their end, lie.
  int64_t* starts(int wave) const {
    int64_t before = wave;
    for (int w = 0; w < wave; ++w) before += static_cast<int64_t>(waves_[w].sets.size());
    return output<int64_t>(starts_) + before;
  }

  std::vector<Tensor> queue(Stream stream) {
    const int64_t numbers = static_cast<int64_t>(links_.size() + waves_.size());
    starts_ = new_empty(coords_, {numbers}, ScalarType::Long);
    zero_async(starts_.mutable_data_ptr(), sizeof(int64_t) * numbers, stream);
    std::vector<Tensor> rows;
    for (int w = 0; w < static_cast<int>(waves_.size()); ++w) {
      waves_[w].room = 0;
      for (int set : waves_[w].sets) waves_[w].room += members_[set].room;
      rows.push_back(new_empty(coords_, {waves_[w].room, coords_.size(1)}));
      const Wave wave = describe(w, rows);
      const WaveRows out{output<int32_t>(rows.back()), waves_[w].room, starts(w)};
      if (wave.slots == 0) continue;
      if (wave.key_bits + set_bits(wave) < 64)
        make_narrow(wave, out, stream);
      else
        make_wide(wave, out, stream);
    }
    return rows;
  }

  Wave describe(int w, const std::vector<Tensor>& rows) const {
    const WavePlan& plan = waves_[w];
    Wave wave{};
    wave.columns = static_cast<int>(coords_.size(1));
    wave.count = static_cast<int>(plan.sets.size());
    wave.base = input<int32_t>(coords_);
    wave.base_room = rows_;
    if (plan.base >= 0) {
      const Member& base = members_[plan.base];
      wave.base = input<int32_t>(rows[base.wave]);
      wave.base_room = waves_[base.wave].room;
      wave.range = starts(base.wave) + base.place;
    }
    for (int s = 0; s < wave.count; ++s) {
      const int set = plan.sets[s];
      const Link& link = links_[set];
      const Layout layout = make_layout(wave.columns, members_[set].bounds);
      wave.sets[s] = {link.reach, layout, begins(set) ? -1 : members_[link.source].place,
                      per_row(set), wave.slots};
      wave.slots += base_room(w) * per_row(set);
      wave.key_bits = std::max(wave.key_bits, layout.words > 1 ? 64 : layout.word_bits(0));
    }
    STD_TORCH_CHECK(wave.slots < int64_t{1} << 32,
                    "sparse coordinates: expected fewer than 2^32 candidates, got ", wave.slots);
    return wave;
  }

  // The rows of each set; false where one had too little room, which is then more.
  bool read(const Numbers& starts, const std::vector<Tensor>& rows, std::vector<Tensor>* sets) {
    bool complete = true;
    std::size_t number = 0;
    for (std::size_t w = 0; w < waves_.size(); ++w, ++number)
      for (int set : waves_[w].sets) {
        const int64_t first = starts[number], count = starts[number + 1] - first;
        ++number;
        if (count <= members_[set].room) {
          if (complete) (*sets)[set] = own_set(rows[w], first, count, waves_[w].sets.size() > 1);
          continue;
        }
        STD_TORCH_CHECK(count <= std::numeric_limits<int32_t>::max(),
                        "sparse_reached: expected sets of fewer than 2^31 rows, got ", count);
        members_[set].room = std::min(most_rows(set), 2 * count);
        complete = false;
      }
    return complete;
  }

  // Sets of one wave lie in one memory, which outputs of an operator may not share.
  Tensor own_set(Tensor rows, int64_t first, int64_t count, bool shared) {
    const int64_t columns = rows.size(1);
    if (!shared) return torch::stable::narrow(rows, 0, first, count);
    const Tensor set = new_empty(rows, {count, columns});
    copies_.push_back(
        {input<int32_t>(rows) + first * columns, output<int32_t>(set), count * columns});
    return set;
  }

  const Tensor coords_;
  const std::vector<Link>& links_;
  int64_t rows_;
  std::vector<Member> members_;
  std::vector<WavePlan> waves_;
  std::vector<CopyJob> copies_;
  Tensor starts_;
};

struct CudaSets {
  static std::vector<Tensor> reached(const Tensor& coords, const std::vector<Link>& links,
                                     const std::optional<Bounds>& bounds) {
    const DeviceGuard guard(coords.get_device_index());
    const Stream stream = current_stream(coords.get_device_index());
    if (links.empty()) return {};
    return SetTree(coords, links, bounds.has_value() ? *bounds : read_bounds(coords, stream))
        .make(stream);
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) { m.impl("sparse_reached", TORCH_BOX(&sparse_reached<CudaSets>)); }

}  // namespace fl::sparse
