// Kernels run on random bits, and what they gave as text: by nvcc on a device, by any other compiler on the emulator.
// The same source and seed give the same inputs in both.
//
// One line per array: name, kind, bound, words in hexadecimal. Of kind `bits` both machines must give the same words,
// of kind `float32` the same values up to `bound` times the line `<name>.magnitude`, or exactly if the bound is 0; any
// NaN equals any other.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/launch.h"

namespace faceattr::cuda::test {

#if defined(__CUDACC__)
inline void require(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw LaunchError(std::string(what) + ": " + cudaGetErrorString(code), code);
}

// What emulator::GlobalArray is on the host: filled with NaNs, or with a copy of values.
template <class T>
class Array {
 public:
  explicit Array(size_t size) : size_(size) {
    require(cudaMalloc(&data_, size * sizeof(T)), "cudaMalloc");
    require(cudaMemset(data_, 0xff, size * sizeof(T)), "cudaMemset");
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    require(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(data_); }

  T* data() { return data_; }
  std::vector<T> values() const {  // waits for kernels, and throws what went wrong in them
    std::vector<T> result(size_);
    require(cudaMemcpy(result.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
    return result;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

inline bool has_hopper() {
  int device = 0, major = 0, minor = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  require(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  require(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return major == 9 && minor == 0;
}
#else
template <class T>
using Array = emulator::GlobalArray<T>;

inline bool has_hopper() { return true; }
#endif

// Numbers of a format: what bits make small integers, and how many roundings of what size a tensor core does. It aligns
// products to the largest and cuts off what lies below its sum's last bit: a term is wrong by less than `kLastBit`
// times the largest.
template <class T>
struct Format;
template <>
struct Format<Float16> {
  static constexpr size_t kBytes = 2;
  static constexpr uint16_t kIntegers[5] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};  // 0 to 4
  static constexpr double kLastBit = 0x1p-23;
};
template <>
struct Format<Bfloat16> {
  static constexpr size_t kBytes = 2;
  static constexpr uint16_t kIntegers[5] = {0, 0x3f80, 0x4000, 0x4040, 0x4080};
  static constexpr double kLastBit = 0x1p-23;
};
template <>
struct Format<Float8E4m3> {
  static constexpr size_t kBytes = 1;
  static constexpr uint16_t kIntegers[5] = {0, 0x38, 0x40, 0x44, 0x48};
  static constexpr double kLastBit = 0x1p-13;  // Hopper's sums of 8-bit floats have 14 bits
};

enum class Numbers { kAny, kAnyMagnitudes, kSmallIntegers };

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}
  uint32_t operator()() { return static_cast<uint32_t>(generator_()); }

  template <class Word>
  std::vector<Word> words(size_t count) {
    std::vector<uint32_t> bits(count * sizeof(Word) / 4);
    for (uint32_t& word : bits) word = (*this)();
    std::vector<Word> result(count);
    std::memcpy(static_cast<void*>(result.data()), bits.data(), bits.size() * 4);
    return result;
  }

 private:
  std::mt19937 generator_;
};

// Random bits as numbers of T below 2, or their magnitudes (the exponent's highest bit is cleared: neither infinities
// nor NaNs), or integers of -4 to 4, whose products and sums are exact everywhere.
template <class T, class Word>
std::vector<Word> as_numbers(std::vector<Word> words, Numbers numbers) {
  auto* bytes = reinterpret_cast<uint8_t*>(words.data());
  constexpr size_t kBytes = Format<T>::kBytes;
  for (size_t i = 0; i < words.size() * sizeof(Word); i += kBytes) {
    uint8_t& high = bytes[i + kBytes - 1];
    if (numbers != Numbers::kSmallIntegers) {
      high &= numbers == Numbers::kAny ? 0xbf : 0x3f;
      continue;
    }
    const uint16_t integer = Format<T>::kIntegers[bytes[i] % 5];
    const bool negative = high >= 128;
    std::memcpy(&bytes[i], &integer, kBytes);  // little endian, as the device is
    if (negative) high |= 0x80;
  }
  return words;
}

template <class T>
void print(const std::string& name, const char* kind, double bound, const std::vector<T>& values) {
  static_assert(sizeof(T) % 4 == 0);
  std::vector<uint32_t> words(values.size() * sizeof(T) / 4);
  std::memcpy(words.data(), values.data(), words.size() * 4);
  std::printf("%s %s %.17g", name.c_str(), kind, bound);
  for (const uint32_t word : words) std::printf(" %x", word);
  std::printf("\n");
}

void portable_cases(Random& random);
void hopper_cases(Random& random);

}  // namespace faceattr::cuda::test
