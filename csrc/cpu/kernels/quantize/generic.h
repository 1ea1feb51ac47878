// The algorithm of quantize.h over any vector of integers (cpu/simd/integers_*.h).
#pragma once

#include "cpu/kernels/quantize/quantize.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec>
struct Quantize {
  static void run(const QuantizeArgs& args) {
    for (int x = 0; x < args.width; ++x) {
      const float* src = args.src + x * args.src_pixel_pitch;
      const std::int64_t dst = x * args.dst_pixel_pitch;
      int c = 0;
      for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth) convert<Vec>(args, src + c, c, dst + c);
      for (; c < args.channels; ++c) convert<typename Vec::Single>(args, src + c, c, dst + c);
    }
  }

 private:
  template <class Integers>
  [[gnu::always_inline]] static inline void convert(const QuantizeArgs& args, const float* src, int channel,
                                                    std::int64_t dst) {
    using Float = typename Integers::Float;
    const Float value = Float::load(src) * Float::load(args.inverse + channel);
    if constexpr (Integers::kStoresBytes) {
      if (args.bytes != nullptr) return Integers::store_bytes(args.bytes + dst, value, args.low);
    }
    Integers::store_narrow(args.dst + dst, value, args.low, args.low + 255.0f);
  }
};

}  // namespace
}  // namespace faceattr::cpu
