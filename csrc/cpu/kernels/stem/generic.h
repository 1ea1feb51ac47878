// The algorithms of stem.h; plain loops that the compiler turns into each instruction set's vectors.
#pragma once

#include <cstring>

#include "base/bfloat16.h"
#include "cpu/kernels/stem/stem.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec>
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

  static void max_pool(const float* top, const float* bottom, int width, int channels, float* dst) {
    for (int x = 0; x < width; ++x, top += 2 * channels, bottom += 2 * channels, dst += channels) {
      int c = 0;
      for (; c + Vec::kWidth <= channels; c += Vec::kWidth) {
        const Vec upper = Vec::load(top + c).max(Vec::load(top + channels + c));
        upper.max(Vec::load(bottom + c).max(Vec::load(bottom + channels + c))).store(dst + c);
      }
      for (; c < channels; ++c) {
        const float upper = top[c] > top[channels + c] ? top[c] : top[channels + c];
        const float lower = bottom[c] > bottom[channels + c] ? bottom[c] : bottom[channels + c];
        dst[c] = upper > lower ? upper : lower;
      }
    }
  }

  static void load_u8_integers(const LoadIntegersArgs& args, const std::uint8_t* row) {
    for (int i = 0; i < 3 * args.width; ++i) {
      args.dst[i] = rounded(2.0f * (static_cast<float>(row[i]) - args.mean[i]));
    }
  }

  static bool load_f32_integers(const LoadIntegersArgs& args, const float* red, const float* green, const float* blue) {
    const float* planes[] = {red, green, blue};
    constexpr std::uint32_t kExponent = 0x7f800000;
    std::uint32_t bad = 0;
    for (int c = 0; c < 3; ++c) {
      for (int x = 0; x < args.width; ++x) {
        std::uint32_t bits;
        std::memcpy(&bits, planes[c] + x, sizeof bits);
        bad |= (bits & kExponent) == kExponent;
        args.dst[3 * x + c] = rounded(planes[c][x] * args.doubled_scale[c]);
      }
    }
    return bad == 0;
  }

  static void integers_to_bfloat16(std::int16_t* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = to_bfloat16(static_cast<float>(values[i]));
  }

  template <class Value>
  static void max_pool_integers(const std::int16_t* top, const std::int16_t* bottom, int width, int channels,
                                std::int64_t pitch, Value* dst) {
    for (int x = 0; x < width; ++x, top += 2 * channels, bottom += 2 * channels, dst += pitch) {
      for (int c = 0; c < channels; ++c) {
        const std::int16_t upper = top[c] > top[channels + c] ? top[c] : top[channels + c];
        const std::int16_t lower = bottom[c] > bottom[channels + c] ? bottom[c] : bottom[channels + c];
        dst[c] = static_cast<Value>(upper > lower ? upper : lower);
      }
    }
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
