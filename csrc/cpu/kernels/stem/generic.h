// The algorithms of stem.h; plain loops that the compiler turns into each instruction set's vectors.
#pragma once

#include <cstring>

#include "base/bfloat16.h"
#include "cpu/kernels/stem/stem.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

struct Stem {
  static void load_u8(const LoadRowArgs& args, const std::uint8_t* row) {
    for (int i = 0; i < 3 * args.width; ++i) {
      args.dst[i] = (static_cast<float>(row[i]) - args.mean[i]) * args.inverse_scale[i];
    }
  }

  static bool load_f32(const LoadRowArgs& args, const float* red, const float* green, const float* blue) {
    constexpr std::uint32_t kExponent = 0x7f800000;  // all ones: infinity or NaN
    std::uint32_t bad = 0;
    for (int x = 0; x < args.width; ++x) {
      args.dst[3 * x] = red[x];
      args.dst[3 * x + 1] = green[x];
      args.dst[3 * x + 2] = blue[x];
    }
    for (int i = 0; i < 3 * args.width; ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, args.dst + i, sizeof bits);
      bad |= (bits & kExponent) == kExponent;
    }
    return bad == 0;
  }

  static void load_u8_integers(const LoadIntegersArgs& args, const std::uint8_t* row) {
    for (int i = 0; i < 3 * args.width; ++i) {
      args.dst[i] = rounded(2.0f * (static_cast<float>(row[i]) - args.mean[i]));
    }
  }

  static bool load_f32_integers(const LoadIntegersArgs& args, const float* red, const float* green, const float* blue) {
    // By way of floats, a few at a time: compilers find vectors for the change of order of those.
    constexpr int kPixels = 64;
    float triples[3 * kPixels];
    bool finite = true;
    for (int begin = 0; begin < args.width; begin += kPixels) {
      const int pixels = args.width - begin < kPixels ? args.width - begin : kPixels;
      const LoadRowArgs row = {pixels, nullptr, nullptr, triples};
      finite &= load_f32(row, red + begin, green + begin, blue + begin);
      const float* scale = args.doubled_scale + 3 * begin;
      for (int i = 0; i < 3 * pixels; ++i) args.dst[3 * begin + i] = rounded(triples[i] * scale[i]);
    }
    return finite;
  }

  static void integers_to_bfloat16(std::int16_t* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = to_bfloat16(static_cast<float>(values[i]));
  }

 private:
  // clamp(rint(value)). Adding 1.5 * 2^23 leaves no bits behind the point: it rounds to nearest even.
  static std::int16_t rounded(float value) {
    constexpr float kLimit = 32767.0f, kShift = 12582912.0f;
    const float low = value > -kLimit ? value : -kLimit;  // a NaN becomes the limit; the image's results become NaN
    const float x = low < kLimit ? low : kLimit;
    return static_cast<std::int16_t>((x + kShift) - kShift);
  }
};

}  // namespace
}  // namespace faceattr::cpu
