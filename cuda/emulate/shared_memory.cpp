// SPDX-License-Identifier: Apache-2.0
//
// Shared memory: one arena, laid out anew for each block, with margins around every array.
#include <algorithm>
#include <cstring>

#include "emulate/machine.h"

#ifdef FL_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

namespace fl {
namespace emulate {

uint64_t block_serial = 0;

namespace {

constexpr std::size_t margin_bytes = 128;

void fill(unsigned char* data, std::size_t bytes, uint64_t pattern) {
  for (std::size_t i = 0; i < bytes; i += sizeof(pattern))
    std::memcpy(data + i, &pattern, std::min(sizeof(pattern), bytes - i));
}

// Not the pattern of unwritten memory: copying that past an end must show too.
constexpr uint64_t margin_pattern = 0xA5C3A5C3A5C3A5C3ull;

void* place_shared(std::size_t bytes, std::size_t alignment, const char* name) {
  alignment = std::max<std::size_t>(alignment, 16);
  unsigned char* base = machine.shared.data();
  std::size_t offset = machine.shared_used + margin_bytes;
  const auto address = reinterpret_cast<std::uintptr_t>(base) + offset;
  offset += (alignment - address % alignment) % alignment;
  if (offset + bytes + margin_bytes > machine.shared.size())
    throw std::runtime_error(where_block() + ": too many shared arrays, at '" + name + "'");
  unsigned char* data = base + offset;
  ASAN_UNPOISON_MEMORY_REGION(data - margin_bytes, bytes + 2 * margin_bytes);
  fill(data - margin_bytes, margin_bytes, margin_pattern);
  fill(data, bytes, undefined_bits);
  fill(data + bytes, margin_bytes, margin_pattern);
  ASAN_POISON_MEMORY_REGION(data - margin_bytes, margin_bytes);
  ASAN_POISON_MEMORY_REGION(data + bytes, margin_bytes);
  machine.ranges.push_back({data, bytes, name});
  machine.shared_used = offset + bytes + margin_bytes;
  return data;
}

bool intact(const unsigned char* margin) {
  unsigned char expected[margin_bytes];
  fill(expected, margin_bytes, margin_pattern);
  return std::memcmp(margin, expected, margin_bytes) == 0;
}

}  // namespace

void reset_shared_memory(std::size_t dynamic_bytes) {
  // Room for the largest launch with margins around each of many arrays.
  machine.shared.resize(shared_limit + 1024 * margin_bytes);
  machine.ranges.clear();
  machine.shared_used = 0;
  machine.dynamic_bytes = dynamic_bytes;
  ++block_serial;
  machine.dynamic_data =
      static_cast<unsigned char*>(place_shared(dynamic_bytes, 128, "dynamic shared memory"));
}

void check_margins() {
  for (const SharedRange& range : machine.ranges) {
    ASAN_UNPOISON_MEMORY_REGION(range.low - margin_bytes, range.bytes + 2 * margin_bytes);
    const bool before = intact(range.low - margin_bytes);
    const bool after = intact(range.low + range.bytes);
    if (before && after) continue;
    throw std::runtime_error(where_block() + ": a write " +
                             (before ? "past the end of" : "before") + " shared array '" +
                             range.name + "' of " + std::to_string(range.bytes) + " bytes");
  }
}

void* allocate_shared(std::size_t bytes, std::size_t alignment, const char* name) {
  std::size_t total = bytes;
  for (std::size_t i = 1; i < machine.ranges.size(); ++i) total += machine.ranges[i].bytes;
  if (total > static_shared_limit || total + machine.dynamic_bytes > shared_limit)
    throw std::runtime_error(where_thread() + "shared array '" + name +
                             "' brings static shared memory to " + std::to_string(total) +
                             " bytes beside " + std::to_string(machine.dynamic_bytes) +
                             " dynamic; the limits are " + std::to_string(static_shared_limit) +
                             " static and " + std::to_string(shared_limit) + " in all");
  return place_shared(bytes, alignment, name);
}

void* dynamic_shared(std::size_t* bytes) {
  *bytes = machine.dynamic_bytes;
  return machine.dynamic_data;
}

}  // namespace emulate
}  // namespace fl
