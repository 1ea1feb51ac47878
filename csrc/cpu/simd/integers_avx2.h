// Pairs of 16-bit integers and eight sums of 32 bits in a YMM register.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd/avx2.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Avx2Integers {
  static constexpr int kWidth = 8;
  static constexpr bool kStoresBytes = false;
  using Single = PortableIntegers<1>;
  using Float = Avx2F32;
  __m256i v;

  static Avx2Integers zero() { return {_mm256_setzero_si256()}; }
  static Avx2Integers load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  void store(std::int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  // sums[j] += pair.low * w[j].low + pair.high * w[j].high.
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(Avx2Integers (&sums)[kVectors], const std::int16_t* pair,
                                                         const Avx2Integers (&w)[kVectors]) {
    std::int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const __m256i x = _mm256_set1_epi32(bits);
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) sums[j].v = _mm256_add_epi32(sums[j].v, _mm256_madd_epi16(x, w[j].v));
  }
  Avx2Integers operator+(Avx2Integers o) const { return {_mm256_add_epi32(v, o.v)}; }
  Avx2Integers operator-(Avx2Integers o) const { return {_mm256_sub_epi32(v, o.v)}; }
  Avx2Integers max(Avx2Integers o) const { return {_mm256_max_epi32(v, o.v)}; }
  template <int kPower>
  Avx2Integers times_power() const {  // of two
    return {_mm256_slli_epi32(v, kPower)};
  }
  Avx2Integers over_576() const { return {_mm256_srai_epi32(_mm256_mullo_epi32(v, _mm256_set1_epi32(kNinth)), 6)}; }
  Avx2Integers quarter() const { return {_mm256_srai_epi32(v, 2)}; }  // of multiples of 4
  struct Scale {
    __m256i bias;
    Float multiplier;
  };
  // `to` says where they are.
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return {load(to.bias + channel).v, Float::load(to.multiplier + channel)};
  }
  // (*this + bias) * multiplier, rounded to float32 twice.
  Float value(const Scale& scale) const {
    return Float{_mm256_cvtepi32_ps(_mm256_add_epi32(v, scale.bias))} * scale.multiplier;
  }

  // clamp(rint(value), low, high), low for NaN.
  static void store_narrow(std::int16_t* p, Float value, float low, float high) {
    const __m256 x = _mm256_min_ps(_mm256_max_ps(value.v, _mm256_set1_ps(low)), _mm256_set1_ps(high));
    const __m256i wide = _mm256_cvtps_epi32(x);
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
  }
};

}  // namespace
}  // namespace faceattr::cpu
