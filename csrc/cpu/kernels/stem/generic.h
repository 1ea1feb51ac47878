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
    return in_triples(args.width, red, green, blue, [&](const float* triples, int begin, int count) {
      const float* scale = args.doubled_scale + begin;
      std::int16_t* dst = args.dst + begin;
      for (int i = 0; i < count; ++i) dst[i] = rounded(triples[i] * scale[i]);
    });
  }

  static bool load_f32_bytes(const LoadBytesArgs& args, const float* red, const float* green, const float* blue) {
    std::int32_t bad = 0;
    const bool finite = in_triples(args.width, red, green, blue, [&](const float* triples, int begin, int count) {
      const float* scale = args.doubled_scale + begin;
      const std::int32_t* mean = args.doubled_mean + begin;
      std::uint8_t* dst = args.dst + begin;
      std::int32_t doubled[3 * kPixels];  // bytes may lie anywhere: written at once, they would rule out vectors
      std::int32_t outside = 0;
      for (int i = 0; i < count; ++i) {
        doubled[i] = rounded(triples[i] * scale[i]) + mean[i];
        outside |= doubled[i] & ~(2 * 255);
      }
      for (int i = 0; i < count; ++i) dst[i] = static_cast<std::uint8_t>(doubled[i] >> 1);
      bad |= outside;
    });
    return finite && bad == 0;
  }

  static void integers_to_bfloat16(std::int16_t* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = to_bfloat16(static_cast<float>(values[i]));
  }

 private:
  static constexpr int kPixels = 64;  // at a time

  // Calls use(triples, first, count) with a few values at a time: for the change of order of floats, compilers find
  // vectors. Returns false if one is not finite.
  template <class Use>
  static bool in_triples(int width, const float* red, const float* green, const float* blue, const Use& use) {
    float triples[3 * kPixels];
    bool finite = true;
    for (int begin = 0; begin < width; begin += kPixels) {
      const int pixels = width - begin < kPixels ? width - begin : kPixels;
      const LoadRowArgs row = {pixels, nullptr, nullptr, triples};
      finite &= load_f32(row, red + begin, green + begin, blue + begin);
      use(triples, 3 * begin, 3 * pixels);
    }
    return finite;
  }

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
