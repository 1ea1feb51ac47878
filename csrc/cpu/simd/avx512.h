// Sixteen floats in a ZMM register.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// 32 bits anywhere, whatever they are.
typedef std::int32_t Anywhere32 __attribute__((may_alias, aligned(1)));

// Two sums += products of the 32 bits at `p`, broadcast, with two weights; `mnemonic` takes a destination and two
// factors, the broadcast one first. Written out: GCC 12 would load all positions' values before the first product and
// spill or copy sums for the lack of registers.
#define FA_ADD_BROADCAST_PRODUCTS(mnemonic, p, w0, w1, sum0, sum1)                  \
  do {                                                                              \
    __m512i broadcast_;                                                             \
    asm("vpbroadcastd %3, %2\n\t" mnemonic " %4, %2, %0\n\t" mnemonic " %5, %2, %1" \
        : "+&v"(sum0), "+&v"(sum1), "=&v"(broadcast_)                               \
        : "m"(*reinterpret_cast<const Anywhere32*>(p)), "v"(w0), "v"(w1));          \
  } while (false)

struct Avx512F32 {
  static constexpr int kWidth = 16;
  __m512 v;

  static Avx512F32 zero() { return {_mm512_setzero_ps()}; }
  static Avx512F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  // Bits of float16 numbers.
  static Avx512F32 load_half(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Avx512F32 broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void add_product(Avx512F32 a, Avx512F32 b) { v = _mm512_fmadd_ps(a.v, b.v, v); }
  Avx512F32 operator+(Avx512F32 o) const { return {_mm512_add_ps(v, o.v)}; }
  Avx512F32 operator-(Avx512F32 o) const { return {_mm512_sub_ps(v, o.v)}; }
  Avx512F32 operator*(Avx512F32 o) const { return {_mm512_mul_ps(v, o.v)}; }
  Avx512F32 max(Avx512F32 o) const { return {_mm512_max_ps(v, o.v)}; }
  // Of two vectors one after the other, the values of even and of odd number.
  static void deal(Avx512F32 a, Avx512F32 b, Avx512F32& even, Avx512F32& odd) {
    const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even.v = _mm512_permutex2var_ps(a.v, places, b.v);
    odd.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(places, _mm512_set1_epi32(1)), b.v);
  }
};

}  // namespace
}  // namespace faceattr::cpu
