// Three planes of floats → triples of narrow values, in AVX-512: compilers find no good vectors for that. 16 pixels at
// a time, the last ones some of them twice. Means and scales repeat: those of a pixel are those of all.
#pragma once

#include <immintrin.h>

#include "cpu/kernels/stem/generic.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// 16 bytes of each plane → 48 of triples: every third byte comes from a plane, in order.
[[gnu::always_inline]] inline void interleave_bytes(std::uint8_t* dst, const __m128i (&planes)[3]) {
  alignas(16) static constexpr std::int8_t kPlaces[3][3][16] = {
      {{0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5},
       {-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1},
       {-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1}},
      {{-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1},
       {5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10},
       {-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1}},
      {{-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1},
       {-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1},
       {10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15}}};
  for (int part = 0; part < 3; ++part) {
    __m128i triples = _mm_setzero_si128();
    for (int c = 0; c < 3; ++c) {
      const __m128i places = _mm_load_si128(reinterpret_cast<const __m128i*>(kPlaces[part][c]));
      triples = _mm_or_si128(triples, _mm_shuffle_epi8(planes[c], places));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 16 * part), triples);
  }
}

// 16 words of each plane → 48 of triples.
[[gnu::always_inline]] inline void interleave_words(std::int16_t* dst, __m256i red, __m256i green, __m256i blue) {
  // Of red and green, next to each other, the places are 0 … 15 and 16 … 31; of blue 32 … 47.
  alignas(64) static constexpr std::int16_t kPlaces[48] = {
      0, 16, 32, 1, 17, 33, 2,  18, 34, 3,  19, 35, 4,  20, 36, 5,  21, 37, 6,  22, 38, 7,  23, 39,
      8, 24, 40, 9, 25, 41, 10, 26, 42, 11, 27, 43, 12, 28, 44, 13, 29, 45, 14, 30, 46, 15, 31, 47};
  const __m512i two = _mm512_inserti64x4(_mm512_castsi256_si512(red), green, 1), one = _mm512_castsi256_si512(blue);
  _mm512_storeu_si512(dst, _mm512_permutex2var_epi16(two, _mm512_load_si512(kPlaces), one));
  const __m512i places = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(kPlaces + 32)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + 32),
                      _mm512_castsi512_si256(_mm512_permutex2var_epi16(two, places, one)));
}

// What Stem::load_f32_integers does, likewise.
inline bool load_f32_integers_avx512(const LoadIntegersArgs& args, const float* red, const float* green,
                                     const float* blue) {
  if (args.width < 16) return Stem::load_f32_integers(args, red, green, blue);
  const float* sources[3] = {red, green, blue};
  __m512 scale[3];
  for (int c = 0; c < 3; ++c) scale[c] = _mm512_set1_ps(args.doubled_scale[c]);
  const __m512 limit = _mm512_set1_ps(32767.0f), least = _mm512_set1_ps(-32767.0f);
  __mmask16 bad = 0;
  const auto load = [&](int x) {
    constexpr int kNotFinite = 0x01 | 0x08 | 0x10 | 0x80;  // a NaN of either kind, infinity of either sign
    __m256i words[3];
    for (int c = 0; c < 3; ++c) {
      const __m512 pixels = _mm512_loadu_ps(sources[c] + x);
      bad = _kor_mask16(bad, _mm512_fpclass_ps_mask(pixels, kNotFinite));
      const __m512 scaled = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(pixels, scale[c]), least), limit);
      words[c] = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(scaled));
    }
    interleave_words(args.dst + 3 * x, words[0], words[1], words[2]);
  };
  for (int x = 0; x + 16 < args.width; x += 16) load(x);
  load(args.width - 16);
  return bad == 0;
}

// What Stem::load_f32_bytes does.
inline bool load_f32_bytes_avx512(const LoadBytesArgs& args, const float* red, const float* green, const float* blue) {
  if (args.width < 16) return Stem::load_f32_bytes(args, red, green, blue);
  const float* sources[3] = {red, green, blue};
  __m512 scale[3];
  __m512i mean[3];
  for (int c = 0; c < 3; ++c) {
    scale[c] = _mm512_set1_ps(args.doubled_scale[c]);
    mean[c] = _mm512_set1_epi32(args.doubled_mean[c]);
  }
  __m512i outside = _mm512_setzero_si512();
  // What is no number, or too large for an integer, becomes -2^31, which no mean takes among the bytes.
  const auto load = [&](int x) {
    __m128i bytes[3];
    for (int c = 0; c < 3; ++c) {
      const __m512i doubled =
          _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(sources[c] + x), scale[c])), mean[c]);
      outside = _mm512_or_si512(outside, doubled);
      bytes[c] = _mm512_cvtepi32_epi8(_mm512_srli_epi32(doubled, 1));
    }
    interleave_bytes(args.dst + 3 * x, bytes);
  };
  for (int x = 0; x + 16 < args.width; x += 16) load(x);
  load(args.width - 16);
  return _mm512_test_epi32_mask(outside, _mm512_set1_epi32(~(2 * 255))) == 0;
}

}  // namespace
}  // namespace faceattr::cpu
