// What the emulated device knows of memory: bounds, alignment, fences, and copies that land late.
#include <algorithm>
#include <map>
#include <mutex>

#include "cuda/emulator/machine.h"

namespace faceattr::cuda::emulator {
namespace {

std::mutex registry_mutex;
std::map<uintptr_t, uintptr_t>& registry() {  // begin -> end
  static std::map<uintptr_t, uintptr_t> ranges;
  return ranges;
}

}  // namespace

void register_global(const void* address, size_t bytes) {
  const std::lock_guard<std::mutex> lock(registry_mutex);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  registry()[begin] = begin + bytes;
}

void unregister_global(const void* address) {
  const std::lock_guard<std::mutex> lock(registry_mutex);
  registry().erase(reinterpret_cast<uintptr_t>(address));
}

std::vector<GlobalRange> global_ranges() {
  const std::lock_guard<std::mutex> lock(registry_mutex);
  std::vector<GlobalRange> ranges;
  for (const auto& [begin, end] : registry()) ranges.push_back({begin, end});
  return ranges;
}

void Machine::check_global(const void* address, size_t bytes, const char* what) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const std::vector<GlobalRange>& ranges = program_->global;
  const auto inside = [&](const GlobalRange& range) { return at >= range.begin && at + bytes <= range.end; };
  if (last_range_ >= ranges.size() || !inside(ranges[last_range_])) {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), at,
                                        [](uintptr_t value, const GlobalRange& range) { return value < range.begin; });
    if (after == ranges.begin()) fail("%s of %zu bytes at %p: below all global memory", what, bytes, address);
    const GlobalRange& range = *(after - 1);
    if (!inside(range)) {
      fail("%s of %zu bytes at %p: outside global memory, %lld bytes from the start of an allocation of %zu", what,
           bytes, address, static_cast<long long>(at - range.begin), static_cast<size_t>(range.end - range.begin));
    }
    last_range_ = static_cast<size_t>(after - 1 - ranges.begin());
  }
  const size_t alignment = std::min<size_t>(bytes, 16);
  if (at % alignment != 0) fail("%s of %zu bytes at %p: not aligned to %zu", what, bytes, address, alignment);
}

uint8_t* Machine::shared(Block& block, SharedAddress address, uint32_t bytes, const char* what) {
  const int64_t offset = static_cast<int64_t>(address) - kSharedBase;
  if (offset < 0 || offset + bytes > static_cast<int64_t>(block.shared.size())) {
    fail("%s of %u bytes at shared_base() + %lld: outside the block's %zu bytes of shared memory", what, bytes,
         static_cast<long long>(offset), block.shared.size());
  }
  const uint32_t alignment = std::min(bytes, 16u);
  if (address % alignment != 0) {
    fail("%s of %u bytes at shared_base() + %lld: not aligned to %u", what, bytes, static_cast<long long>(offset),
         alignment);
  }
  return block.shared.data() + offset;
}

void Machine::mark_written(Block& block, SharedAddress address, uint32_t bytes) {
  const uint64_t writer = static_cast<uint64_t>(current_->flat + 1) << 32 | current_->fences;
  const uint32_t offset = address - kSharedBase;
  for (uint32_t chunk = offset / 16; chunk <= (offset + bytes - 1) / 16; ++chunk) block.writer[chunk] = writer;
}

void Machine::check_fenced(Block& block, SharedAddress address, uint32_t bytes, const char* what) {
  const uint32_t offset = address - kSharedBase;
  for (uint32_t chunk = offset / 16; chunk <= (offset + bytes - 1) / 16; ++chunk) {
    const uint64_t writer = block.writer[chunk];
    if (writer == 0) continue;
    const Thread& thread = *threads_[(writer >> 32) - 1];
    if (thread.fences == static_cast<uint32_t>(writer)) {
      fail("%s at shared_base() + %u, which thread %d stored to without a fence_async after it", what, chunk * 16,
           thread.index);
    }
    block.writer[chunk] = 0;
  }
}

void Machine::land_copies(int groups_left) {
  Thread& self = *current_;
  const int upto = self.copy_group - groups_left;  // groups below it land
  size_t landed = 0;
  for (; landed < self.copies.size() && self.copies[landed].group < upto; ++landed) {
    const Thread::Copy& copy = self.copies[landed];
    uint8_t* const dst = shared(*self.block, copy.dst, 16, "copy_async_16");
    if (copy.src) {
      std::memcpy(dst, copy.src, 16);
    } else {
      std::memset(dst, 0, 16);
    }
    mark_written(*self.block, copy.dst, 16);
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(landed));
}

Mbarrier& Machine::mbarrier(Block& block, SharedAddress address) {
  const auto found = block.mbarriers.find(address);
  if (found == block.mbarriers.end()) {
    fail("uses shared_base() + %lld of block rank %d as an mbarrier, which nobody has initialised",
         static_cast<long long>(address) - kSharedBase, block.rank);
  }
  return found->second;
}

void Machine::step(Mbarrier& barrier, SharedAddress address, uint32_t arrivals, int64_t bytes) {
  if (arrivals > barrier.pending) {
    fail("the mbarrier at shared_base() + %u gets more than the %u arrivals of a phase", address - kSharedBase,
         barrier.arrivals);
  }
  barrier.pending -= arrivals;
  barrier.bytes += bytes;
  progressed();
  if (barrier.pending == 0 && barrier.bytes == 0) {
    ++barrier.phase;
    barrier.pending = barrier.arrivals;
    wake_all(barrier.waiting);
  }
}

// What is being copied is not to be read any more, nor yet: it holds garbage until it lands.
void Machine::issue(BulkCopy copy) {
  if (copy.bytes == 0 || copy.bytes % 16 != 0 || copy.dst % 16 != 0 || reinterpret_cast<uintptr_t>(copy.src) % 16) {
    fail("copy_bulk of %u bytes to shared address %u from %p: all must be multiples of 16", copy.bytes, copy.dst,
         static_cast<const void*>(copy.src));
  }
  check_global(copy.src, copy.bytes, "copy_bulk");
  mbarrier(*copy.block, copy.barrier);
  uint8_t* const dst = shared(*copy.block, copy.dst, copy.bytes, "copy_bulk");
  check_fenced(*copy.block, copy.dst, copy.bytes, "copy_bulk to memory");
  std::memset(dst, 0xff, copy.bytes);
  in_flight_.push_back(copy);
  progressed();
}

void Machine::land_one() {
  const size_t which = random() % in_flight_.size();
  const BulkCopy copy = in_flight_[which];
  in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(which));
  std::memcpy(shared(*copy.block, copy.dst, copy.bytes, "copy_bulk"), copy.src, copy.bytes);
  step(mbarrier(*copy.block, copy.barrier), copy.barrier, 0, -static_cast<int64_t>(copy.bytes));
}

}  // namespace faceattr::cuda::emulator
