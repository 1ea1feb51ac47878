// What kernels on the emulator may reach outside their blocks: every global address must lie in a registered range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace faceattr::cuda::emulator {

struct GlobalRange {
  uintptr_t begin, end;
};

// Any thread may call these, between launches that use the range. Ranges do not overlap.
void register_global(const void* address, size_t bytes);
void unregister_global(const void* address);

// In order of address.
std::vector<GlobalRange> global_ranges();

// A device allocation: as aligned as cudaMalloc's, exactly as large as asked for, filled with NaNs (0xff).
template <class T>
class GlobalArray {
 public:
  explicit GlobalArray(size_t size)
      : size_(size), data_(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{256}))) {
    std::memset(static_cast<void*>(data_), 0xff, size * sizeof(T));
    register_global(data_, size * sizeof(T));
  }
  explicit GlobalArray(const std::vector<T>& values) : GlobalArray(values.size()) {
    if (!values.empty()) std::memcpy(static_cast<void*>(data_), values.data(), values.size() * sizeof(T));
  }
  GlobalArray(const GlobalArray&) = delete;
  GlobalArray& operator=(const GlobalArray&) = delete;
  ~GlobalArray() {
    unregister_global(data_);
    ::operator delete(data_, std::align_val_t{256});
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  std::vector<T> values() const { return std::vector<T>(data_, data_ + size_); }

 private:
  size_t size_;
  T* data_;
};

}  // namespace faceattr::cuda::emulator
