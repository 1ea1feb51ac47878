// Pairs of 16-bit integers, fours of bytes and N sums of 32 bits in the compiler's own vector types: any target, no
// intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd/portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy (see docs/adding_a_kernel.md)

constexpr std::int32_t kNinth = 954437177;  // times 9 is 1 modulo 2^32
static_assert(static_cast<std::uint32_t>(kNinth) * 9u == 1u);

template <int N>
struct PortableIntegers {
  static constexpr int kWidth = N;
  static constexpr bool kStoresBytes = true;
  using Single = PortableIntegers<1>;
  using Float = PortableF32<N>;
  typedef std::int32_t Native __attribute__((vector_size(N * 4)));
  Native v;

  static PortableIntegers zero() { return {Native{}}; }
  // N pairs, N fours, or N sums.
  static PortableIntegers load(const void* p) {
    PortableIntegers r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  void store(std::int32_t* p) const { std::memcpy(p, &v, sizeof v); }
  // sums[j] += pair.low * w[j].low + pair.high * w[j].high, lane by lane, modulo 2^32. Arithmetic shifts take a pair
  // apart.
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(PortableIntegers (&sums)[kVectors], const std::int16_t* pair,
                                                         const PortableIntegers (&w)[kVectors]) {
    std::int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const Native x = Native{} + bits;
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      const PortableIntegers low = {((x << 16) >> 16) * ((w[j].v << 16) >> 16)}, high = {(x >> 16) * (w[j].v >> 16)};
      sums[j] = sums[j] + low + high;
    }
  }
  // The same of four products, of bytes without a sign and bytes with one.
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(PortableIntegers (&sums)[kVectors], const std::uint8_t* quad,
                                                         const PortableIntegers (&w)[kVectors]) {
    std::int32_t bits;
    std::memcpy(&bits, quad, sizeof bits);
    const Native x = Native{} + bits;
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      sums[j].v += (x & 255) * ((w[j].v << 24) >> 24) + ((x >> 8) & 255) * ((w[j].v << 16) >> 24) +
                   ((x >> 16) & 255) * ((w[j].v << 8) >> 24) + ((x >> 24) & 255) * (w[j].v >> 24);
    }
  }
  // Modulo 2^32.
  PortableIntegers operator+(PortableIntegers o) const { return {reinterpret_cast<Native>(bits() + o.bits())}; }
  PortableIntegers operator-(PortableIntegers o) const { return {reinterpret_cast<Native>(bits() - o.bits())}; }
  PortableIntegers max(PortableIntegers o) const { return {v > o.v ? v : o.v}; }
  template <int kPower>
  PortableIntegers times_power() const {  // of two
    return {reinterpret_cast<Native>(bits() << kPower)};
  }
  // Of multiples of 576 modulo 2^32, where the result is below 2^25 in magnitude.
  PortableIntegers over_576() const {
    return {reinterpret_cast<Native>(bits() * static_cast<std::uint32_t>(kNinth)) >> 6};
  }
  PortableIntegers quarter() const { return {v >> 2}; }  // of multiples of 4
  struct Scale {
    Native bias;
    Float multiplier;
  };
  // `to` says where they are.
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return {load(to.bias + channel).v, Float::load(to.multiplier + channel)};
  }
  // (*this + bias) * multiplier, rounded to float32 twice.
  Float value(const Scale& scale) const {
    return Float{__builtin_convertvector(v + scale.bias, typename Float::Native)} * scale.multiplier;
  }

  // clamp(rint(value), low, high), low for NaN.
  static void store_narrow(std::int16_t* p, Float value, float low, float high) {
    for (int i = 0; i < N; ++i) p[i] = static_cast<std::int16_t>(rounded(value.v[i], low, high));
  }
  // The same up to low + 255, minus low.
  static void store_bytes(std::uint8_t* p, Float value, float low) {
    for (int i = 0; i < N; ++i) p[i] = static_cast<std::uint8_t>(rounded(value.v[i], low, low + 255.0f) - low);
  }

 private:
  // Adding 1.5 * 2^23 leaves no bits behind the point: it rounds to nearest even.
  static float rounded(float value, float low, float high) {
    const float raised = value > low ? value : low, x = raised < high ? raised : high;
    constexpr float kShift = 12582912.0f;
    return (x + kShift) - kShift;
  }

  typedef std::uint32_t Bits __attribute__((vector_size(N * 4)));
  Bits bits() const { return reinterpret_cast<Bits>(v); }
};

}  // namespace
}  // namespace faceattr::cpu
