// Pairs of bfloat16 and sixteen sums of float32 in a ZMM register: VDPBF16PS where there is AVX512-BF16, else widened
// as in AVX2. The two round differently.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd/avx512.h"
#include "cpu/simd/bfloat16_portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Avx512Bfloat16 {
  static constexpr int kWidth = 16;
  static constexpr bool kStoresBytes = false;
  using Float = Avx512F32;
  using Single = PortableBfloat16<1>;
  __m512i v;

  static Avx512Bfloat16 zero() { return {_mm512_setzero_si512()}; }
  static Avx512Bfloat16 load(const void* p) { return {_mm512_loadu_si512(p)}; }
  void store(std::int32_t* p) const { _mm512_storeu_si512(p, v); }
#if defined(__AVX512BF16__)
  [[gnu::always_inline]] static inline void add_products(Avx512Bfloat16 (&sums)[2], const std::int16_t* pair,
                                                         const Avx512Bfloat16 (&w)[2]) {
    FA_ADD_BROADCAST_PRODUCTS("vdpbf16ps", pair, w[0].v, w[1].v, sums[0].v, sums[1].v);
  }
#else
  [[gnu::always_inline]] static inline void add_products(Avx512Bfloat16 (&sums)[2], const std::int16_t* pair,
                                                         const Avx512Bfloat16 (&w)[2]) {
    std::int32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const Avx512Bfloat16 x = {_mm512_set1_epi32(bits)};
    for (int j = 0; j < 2; ++j) {
      const __m512 low = _mm512_fmadd_ps(x.low(), w[j].low(), _mm512_castsi512_ps(sums[j].v));
      sums[j].v = _mm512_castps_si512(_mm512_fmadd_ps(x.high(), w[j].high(), low));
    }
  }
#endif
  Avx512Bfloat16 max(Avx512Bfloat16 o) const {
    return {_mm512_castps_si512(_mm512_max_ps(_mm512_castsi512_ps(v), _mm512_castsi512_ps(o.v)))};
  }
  using Scale = Float;  // the bias; `to` says where it is
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return Float::load(reinterpret_cast<const float*>(to.bias + channel));
  }
  Float value(Scale bias) const { return Float{_mm512_castsi512_ps(v)} + bias; }

  static Float widen(const std::int16_t* p) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16))};
  }
  static void store_narrow(std::int16_t* p, Float value, float, float) {
#if defined(__AVX512BF16__)  // numbers below the least normal one become zero
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(value.v));
#else
    const __m512i bits = _mm512_castps_si512(value.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(value.v, value.v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(quiet, 16)));
#endif
  }

#if !defined(__AVX512BF16__)
 private:
  __m512 low() const { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
  __m512 high() const { return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(-65536))); }
#endif
};

}  // namespace
}  // namespace faceattr::cpu
