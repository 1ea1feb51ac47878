// Three planes of floats → triples of narrow values, in AVX-512: compilers find no good vectors for that.
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

// What Stem::load_f32_bytes does. Means and scales repeat: those of a pixel are those of all.
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
  // The last 16 pixels are done last, some of them for a second time. What is no number, or too large for an integer,
  // becomes -2^31, which no mean takes among the bytes.
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
