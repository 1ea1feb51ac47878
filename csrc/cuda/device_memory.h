// Device memory that callers keep: results, and copies of their pixels.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/runtime.h"

namespace faceattr::cuda {

// Throws CudaError in a forked child of the process in which `generation` was current: CUDA does not survive a fork.
void require_own_process(std::uint64_t generation);

class MemoryPool;

// A block of memory that work on `stream` writes. When it is freed, later work on the same stream may reuse it at once,
// as with the allocators of torch or CuPy: who reads it on another stream keeps it until that has happened.
class DeviceMemory {
 public:
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }
  Stream stream() const { return stream_; }
  int device() const;

  // What `stream` has been given by now writes the contents; it is the memory's stream from here on.
  void mark_ready(Stream stream);
  // Lets work that `stream` is given from now on see the contents.
  void order_before(Stream stream) const;
  // Copies to the host, and waits for it.
  void read(void* dst, std::size_t offset, std::size_t bytes) const;

 private:
  friend class MemoryPool;
  DeviceMemory(std::shared_ptr<MemoryPool> pool, void* data, std::size_t bytes, Event ready, Stream stream)
      : pool_(std::move(pool)), data_(data), bytes_(bytes), ready_(ready), stream_(stream) {}

  std::shared_ptr<MemoryPool> pool_;
  void* data_;
  std::size_t bytes_;
  Event ready_;
  Stream stream_;
  bool marked_ = false, captured_ = false;
};

// Blocks of one device, kept for reuse by the stream that used them. Callable from any thread.
class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  explicit MemoryPool(int device);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  std::shared_ptr<DeviceMemory> allocate(std::size_t bytes, Stream stream);
  int device() const { return device_; }
  std::uint64_t born() const { return born_; }

 private:
  friend class DeviceMemory;
  struct Block {
    void* data;
    std::size_t bytes;
    Event ready;
    Stream stream;
  };
  // With more, the oldest are freed, which makes the device wait.
  static constexpr std::size_t kIdle = 32;

  void give_back(const Block& block, bool captured) noexcept;
  void free(const Block& block) noexcept;

  const int device_;
  const std::uint64_t born_;
  std::mutex mutex_;
  std::vector<Block> idle_;
  std::vector<Block> kept_;  // which somebody's graph writes whenever it is launched
};

}  // namespace faceattr::cuda
