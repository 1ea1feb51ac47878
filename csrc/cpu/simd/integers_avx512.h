// Pairs of 16-bit integers, fours of bytes and sixteen sums of 32 bits in a ZMM register.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd/avx512.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Avx512Integers {
  static constexpr int kWidth = 16;
  static constexpr bool kStoresBytes = true;
  using Single = PortableIntegers<1>;
  using Float = Avx512F32;
  __m512i v;

  static Avx512Integers zero() { return {_mm512_setzero_si512()}; }
  static Avx512Integers load(const void* p) { return {_mm512_loadu_si512(p)}; }
  void store(std::int32_t* p) const { _mm512_storeu_si512(p, v); }
#if defined(__AVX512VNNI__)
  [[gnu::always_inline]] static inline void add_products(Avx512Integers (&sums)[2], const std::int16_t* pair,
                                                         const Avx512Integers (&w)[2]) {
    FA_ADD_BROADCAST_PRODUCTS("vpdpwssd", pair, w[0].v, w[1].v, sums[0].v, sums[1].v);
  }
  // Of bytes without a sign and bytes with one.
  [[gnu::always_inline]] static inline void add_products(Avx512Integers (&sums)[2], const std::uint8_t* quad,
                                                         const Avx512Integers (&w)[2]) {
    FA_ADD_BROADCAST_PRODUCTS("vpdpbusd", quad, w[0].v, w[1].v, sums[0].v, sums[1].v);
  }
#else
  [[gnu::always_inline]] static inline void add_products(Avx512Integers (&sums)[2], const std::int16_t* pair,
                                                         const Avx512Integers (&w)[2]) {
    std::int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const __m512i x = _mm512_set1_epi32(bits);
    for (int j = 0; j < 2; ++j) sums[j].v = _mm512_add_epi32(sums[j].v, _mm512_madd_epi16(x, w[j].v));
  }
#endif
  Avx512Integers operator+(Avx512Integers o) const { return {_mm512_add_epi32(v, o.v)}; }
  Avx512Integers operator-(Avx512Integers o) const { return {_mm512_sub_epi32(v, o.v)}; }
  Avx512Integers max(Avx512Integers o) const { return {_mm512_max_epi32(v, o.v)}; }
  template <int kPower>
  Avx512Integers times_power() const {  // of two
    return {_mm512_slli_epi32(v, kPower)};
  }
  Avx512Integers over_576() const { return {_mm512_srai_epi32(_mm512_mullo_epi32(v, _mm512_set1_epi32(kNinth)), 6)}; }
  Avx512Integers quarter() const { return {_mm512_srai_epi32(v, 2)}; }  // of multiples of 4
  struct Scale {
    __m512i bias;
    Float multiplier;
  };
  // `to` says where they are.
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return {load(to.bias + channel).v, Float::load(to.multiplier + channel)};
  }
  // (*this + bias) * multiplier, rounded to float32 twice.
  Float value(const Scale& scale) const {
    return Float{_mm512_cvtepi32_ps(_mm512_add_epi32(v, scale.bias))} * scale.multiplier;
  }

  // clamp(rint(value), low, high), low for NaN.
  static void store_narrow(std::int16_t* p, Float value, float low, float high) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded(value, low, high)));
  }
  // The same up to low + 255, minus low.
  static void store_bytes(std::uint8_t* p, Float value, float low) {
    // Not below zero, so what is too large, 2^31 for what no integer holds included, saturates to 255.
    const __m512i distance = _mm512_sub_epi32(_mm512_cvtps_epi32(_mm512_max_ps(value.v, _mm512_set1_ps(low))),
                                              _mm512_set1_epi32(static_cast<int>(low)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(distance));
  }

 private:
  static __m512i rounded(Float value, float low, float high) {
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value.v, _mm512_set1_ps(low)), _mm512_set1_ps(high)));
  }
};

}  // namespace
}  // namespace faceattr::cpu
