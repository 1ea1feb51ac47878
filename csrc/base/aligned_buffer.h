// Float storage on cache-line boundaries, on huge pages where it is large enough to gain from them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace faceattr {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // Contents are undefined. Throws std::bad_alloc.
  explicit AlignedBuffer(std::size_t count) : size_(count) {
    if (count > SIZE_MAX / sizeof(float) - kHugePage) throw std::bad_alloc();
    const std::size_t bytes = count * sizeof(float);
    if (bytes == 0) return;
#if defined(__linux__)
    if (bytes >= kHugePage) {
      data_ = map(bytes);
      return;
    }
#endif
    void* memory = std::aligned_alloc(kCacheLine, round_up(bytes, kCacheLine));
    if (memory == nullptr) throw std::bad_alloc();
    data_ = {static_cast<float*>(memory), Free{0}};
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::size_t kCacheLine = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Free {
    std::size_t mapped;  // bytes; 0: from the heap
    void operator()(float* memory) const {
#if defined(__linux__)
      if (mapped != 0) {
        (void)munmap(memory, mapped);
        return;
      }
#endif
      std::free(memory);
    }
  };
  using Memory = std::unique_ptr<float, Free>;

  static std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if defined(__linux__)
  // Weights and activations are read with large strides; 4 KiB pages cost TLB misses. A mapping of its own, and not the
  // heap: it leaves no gaps in which a huge page lies idle, and is given back whole.
  static Memory map(std::size_t bytes) {
    // A rest of up to a quarter of a huge page takes small pages, 128 at most; a huge one would leave three quarters of
    // itself unused. The transformed weights of a 14x14 block, 36 x 128 x 256 floats, are 2.25 huge pages.
    const std::size_t rest = bytes % kHugePage;
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t size = round_up(bytes, rest > kHugePage / 4 ? kHugePage : page);
    void* memory = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    char* const begin = static_cast<char*>(memory);
    const std::size_t before =
        round_up(reinterpret_cast<std::uintptr_t>(begin), kHugePage) - reinterpret_cast<std::uintptr_t>(begin);
    if (before != 0) (void)munmap(begin, before);
    (void)munmap(begin + before + size, kHugePage - before);  // never nothing: `before` is less than a huge page
    (void)madvise(begin + before, size, MADV_HUGEPAGE);       // a hint: failure is harmless
    return {reinterpret_cast<float*>(begin + before), Free{size}};
  }
#endif

  Memory data_{nullptr, Free{0}};
  std::size_t size_ = 0;
};

}  // namespace faceattr
