// Float storage on cache-line boundaries, on huge pages where it is large enough to gain from them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace faceattr {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // Contents are undefined. Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t count) : size_(count) {
    if (count > SIZE_MAX / sizeof(float) - kHugePage) throw std::bad_alloc();
    const std::size_t bytes = count * sizeof(float);
    const std::size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
    const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    if (rounded == 0) return;
    void* memory = std::aligned_alloc(alignment, rounded);
    if (memory == nullptr) throw std::bad_alloc();
    data_.reset(static_cast<float*>(memory));
#if defined(__linux__)
    // Weights and activations are read with large strides; 4 KiB pages cost TLB misses. A hint: failure is harmless.
    if (alignment == kHugePage) (void)madvise(memory, rounded, MADV_HUGEPAGE);
#endif
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t kCacheLine = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace faceattr
