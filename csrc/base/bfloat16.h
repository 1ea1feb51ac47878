// bfloat16: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

namespace faceattr {
namespace {  // internal linkage: kernels of each instruction set have their own copy

inline float from_bfloat16(std::int16_t value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::uint16_t>(value)) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// To nearest, ties to even. A NaN stays one.
inline std::int16_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = nan ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<std::int16_t>(rounded >> 16);
}

}  // namespace
}  // namespace faceattr
