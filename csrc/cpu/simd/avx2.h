// Eight floats in a YMM register.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Avx2F32 {
  static constexpr int kWidth = 8;
  __m256 v;

  static Avx2F32 zero() { return {_mm256_setzero_ps()}; }
  static Avx2F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  // Bits of float16 numbers.
  static Avx2F32 load_half(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Avx2F32 broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void add_product(Avx2F32 a, Avx2F32 b) { v = _mm256_fmadd_ps(a.v, b.v, v); }
  Avx2F32 operator+(Avx2F32 o) const { return {_mm256_add_ps(v, o.v)}; }
  Avx2F32 operator-(Avx2F32 o) const { return {_mm256_sub_ps(v, o.v)}; }
  Avx2F32 operator*(Avx2F32 o) const { return {_mm256_mul_ps(v, o.v)}; }
  Avx2F32 max(Avx2F32 o) const { return {_mm256_max_ps(v, o.v)}; }
  // Of two vectors one after the other, the values of even and of odd number.
  static void deal(Avx2F32 a, Avx2F32 b, Avx2F32& even, Avx2F32& odd) {
    constexpr int kInOrder = 0xd8;  // each half has two values of a, then two of b
    const auto in_order = [](__m256 x) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), kInOrder));
    };
    even.v = in_order(_mm256_shuffle_ps(a.v, b.v, 0x88));
    odd.v = in_order(_mm256_shuffle_ps(a.v, b.v, 0xdd));
  }
};

}  // namespace
}  // namespace faceattr::cpu
