#include "cuda/device_memory.h"

#include <algorithm>
#include <utility>

#include "base/forks.h"

namespace faceattr::cuda {

void require_own_process(std::uint64_t generation) {
  if (fork_generation() == generation) return;
  throw CudaError("CUDA does not survive a fork: load the network in the process that runs it");
}

DeviceMemory::~DeviceMemory() { pool_->give_back({data_, bytes_, ready_, stream_}, captured_); }

int DeviceMemory::device() const { return pool_->device(); }

void DeviceMemory::mark_ready(Stream stream) {
  require_own_process(pool_->born());
  const OnDevice on(device());
  stream_ = stream;
  captured_ = capturing(stream);
  if (captured_) return;  // the work is yet to come, whenever the graph is launched
  record(ready_, stream);
  marked_ = true;
}

void DeviceMemory::order_before(Stream stream) const {
  require_own_process(pool_->born());
  if (!marked_ || stream == stream_) return;
  const OnDevice on(device());
  wait(stream, ready_);
}

void DeviceMemory::read(void* dst, std::size_t offset, std::size_t bytes) const {
  require_own_process(pool_->born());
  const OnDevice on(device());
  if (marked_) {
    synchronize_event(ready_);
  } else {
    synchronize(stream_);
  }
  // A stream of its own: the one that wrote may have been destroyed since.
  const OwnStream stream;
  copy_to_host(dst, data() + offset, bytes, stream.get());
  synchronize(stream.get());
}

MemoryPool::MemoryPool(int device) : device_(device), born_(fork_generation()) { idle_.reserve(kIdle + 1); }

MemoryPool::~MemoryPool() {
  if (fork_generation() != born_) return;
  for (const Block& block : idle_) free(block);
  for (const Block& block : kept_) free(block);
}

std::shared_ptr<DeviceMemory> MemoryPool::allocate(std::size_t bytes, Stream stream) {
  require_own_process(born_);
  const OnDevice on(device_);
  const auto make = [&](const Block& block) {
    return std::shared_ptr<DeviceMemory>(
        new DeviceMemory(shared_from_this(), block.data, block.bytes, block.ready, stream));
  };
  {
    // The smallest block that fits and is not twice as large as needed.
    std::lock_guard<std::mutex> lock(mutex_);
    auto best = idle_.end();
    for (auto it = idle_.begin(); it != idle_.end(); ++it) {
      if (it->stream != stream || it->bytes < bytes || it->bytes / 2 > bytes) continue;
      if (best == idle_.end() || it->bytes < best->bytes) best = it;
    }
    if (best != idle_.end()) {
      const Block found = *best;
      idle_.erase(best);
      return make(found);
    }
  }
  const AllowDuringCapture allow;
  const std::size_t size = std::max<std::size_t>(bytes, 1);
  Block block = {nullptr, size, create_event(), stream};
  try {
    block.data = cuda::allocate(size);
  } catch (...) {
    free(block);
    throw;
  }
  return make(block);
}

void MemoryPool::give_back(const Block& block, bool captured) noexcept {
  if (fork_generation() != born_) return;  // the lock may be held for ever
  Block oldest = {};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (captured) {
      kept_.push_back(block);
      return;
    }
    idle_.push_back(block);
    if (idle_.size() <= kIdle) return;
    oldest = idle_.front();
    idle_.erase(idle_.begin());
  }
  free(oldest);
}

void MemoryPool::free(const Block& block) noexcept {
  const AllowDuringCapture allow;
  if (block.data != nullptr) release(block.data);
  destroy_event(block.ready);
}

}  // namespace faceattr::cuda
