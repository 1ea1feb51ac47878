// Pairs of bfloat16 and eight sums of float32 in a YMM register. Without instructions for bfloat16, each half of a pair
// is widened: a shift for the lower, a mask for the upper.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd/avx2.h"
#include "cpu/simd/bfloat16_portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Avx2Bfloat16 {
  static constexpr int kWidth = 8;
  static constexpr bool kStoresBytes = false;
  using Float = Avx2F32;
  using Single = PortableBfloat16<1>;
  __m256i v;

  static Avx2Bfloat16 zero() { return {_mm256_setzero_si256()}; }
  static Avx2Bfloat16 load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
  void store(std::int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  // sums[j] += pair.low * w[j].low, then += pair.high * w[j].high.
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(Avx2Bfloat16 (&sums)[kVectors], const std::int16_t* pair,
                                                         const Avx2Bfloat16 (&w)[kVectors]) {
    std::int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const Avx2Bfloat16 x = {_mm256_set1_epi32(bits)};
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      const __m256 low = _mm256_fmadd_ps(x.low(), w[j].low(), _mm256_castsi256_ps(sums[j].v));
      sums[j].v = _mm256_castps_si256(_mm256_fmadd_ps(x.high(), w[j].high(), low));
    }
  }
  Avx2Bfloat16 max(Avx2Bfloat16 o) const {
    return {_mm256_castps_si256(_mm256_max_ps(_mm256_castsi256_ps(v), _mm256_castsi256_ps(o.v)))};
  }
  using Scale = Float;  // the bias; `to` says where it is
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return Float::load(reinterpret_cast<const float*>(to.bias + channel));
  }
  Float value(Scale bias) const { return Float{_mm256_castsi256_ps(v)} + bias; }

  static Float widen(const std::int16_t* p) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16))};
  }
  static void store_narrow(std::int16_t* p, Float value, float, float) {
    const __m256i bits = _mm256_castps_si256(value.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value.v, value.v, _CMP_UNORD_Q));
    const __m256i upper = _mm256_srai_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow);
  }

 private:
  __m256 low() const { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
  __m256 high() const { return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(-65536))); }
};

}  // namespace
}  // namespace faceattr::cpu
