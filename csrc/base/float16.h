// IEEE float16 on the host: 5 bits of exponent, 10 of mantissa.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace faceattr {
namespace {  // internal linkage, as bfloat16.h

inline float from_float16(std::uint16_t value) {
  const int exponent = value >> 10 & 31, mantissa = value & 1023;
  const float magnitude = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                          : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                          : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return std::copysign(magnitude, value >> 15 != 0 ? -1.0f : 1.0f);
}

// To nearest, ties to even; beyond the range infinity. A NaN stays one.
inline std::uint16_t to_float16(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  // The unit of the last place: 2^-10 of the power of two below, but no less than 2^-24. Division by it is exact, and
  // 1024 units or more carry into the exponent by themselves.
  int exponent = -24;  // of zero, too
  if (magnitude > 0) std::frexp(magnitude, &exponent);
  const int unit = exponent - 11 > -24 ? exponent - 11 : -24;
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  return static_cast<std::uint16_t>(sign | (((unit + 24) << 10) + units));
}

}  // namespace
}  // namespace faceattr
