// The device's number formats on a host, bit by bit as PTX converts them.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/types.h"

namespace faceattr::cuda::emulator {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// float32 has 112 more negative exponents than float16: shifting the fields in place divides by 2^112, subnormals too.
inline float float16_value(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  uint32_t bits = bits_of(float_of(magnitude) * 0x1p112f);
  if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000u;  // infinity, NaN
  return float_of(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

inline uint16_t float16_bits(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;                                 // any NaN
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00);  // from 2^16 on
  if (magnitude < 0x38800000u) {  // below 2^-14: the unit of 0.5 is 2^-24, float16's least, and the sum rounds to it
    return static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
  }
  magnitude += 0xfffu + (magnitude >> 13 & 1u) - (112u << 23);
  return static_cast<uint16_t>(sign | magnitude >> 13);  // a carry from 65504 on makes infinity
}

inline float bfloat16_value(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

inline uint16_t bfloat16_bits(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Sign, four bits of exponent biased by 7, three of mantissa; no infinity, all ones are NaN.
inline float float8_e4m3_value(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const float value = magnitude == 0x7f ? float_of(0x7fc00000u) : float_of(magnitude << 20) * 0x1p120f;
  return bits & 0x80u ? -value : value;
}

template <class T>
struct Format;
template <>
struct Format<Float16> {
  static float value(uint16_t bits) { return float16_value(bits); }
  static uint16_t bits(float value) { return float16_bits(value); }
};
template <>
struct Format<Bfloat16> {
  static float value(uint16_t bits) { return bfloat16_value(bits); }
  static uint16_t bits(float value) { return bfloat16_bits(value); }
};

}  // namespace faceattr::cuda::emulator
