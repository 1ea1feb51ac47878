// The algorithm of shifted_means.h over any vector type.
#pragma once

#include "base/bfloat16.h"
#include "cpu/kernels/shifted_means/shifted_means.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec>
struct ShiftedMeans {
  static void run(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end) {
    const int pad = args.kernel / 2;
    const Span rows = inside(tap / args.kernel - pad, args.stride, args.height, args.out_height);
    const Span columns = inside(tap % args.kernel - pad, args.stride, args.width, args.out_width);
    const float scale = 1.0f / (static_cast<float>(args.out_height) * static_cast<float>(args.out_width));
    float* dst = args.dst + static_cast<std::int64_t>(tap) * args.count;
    int c = channel_begin;
    for (; c + Vec::kWidth <= channel_end; c += Vec::kWidth) {
      Vec sum = Vec::zero();
      for (int y = rows.begin; y < rows.end; y += args.stride) {
        for (int x = columns.begin; x < columns.end; x += args.stride) sum = sum + Vec::load(at(args, y, x) + c);
      }
      (sum * Vec::broadcast(&scale)).store(dst + c);
    }
    for (; c < channel_end; ++c) {
      float sum = 0.0f;
      for (int y = rows.begin; y < rows.end; y += args.stride) {
        for (int x = columns.begin; x < columns.end; x += args.stride) sum += at(args, y, x)[c];
      }
      dst[c] = sum * scale;
    }
  }

  static void run_integers(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end) {
    std::int32_t sums[kShiftedMeansChannels] = {};
    if (args.bytes != nullptr) {
      add_narrow(args, args.bytes, tap, channel_begin, channel_end,
                 [&](int c, int value) { sums[c] += value + args.low; });
    } else {
      add_narrow(args, args.narrow, tap, channel_begin, channel_end, [&](int c, int value) { sums[c] += value; });
    }
    const float share = 1.0f / (static_cast<float>(args.out_height) * static_cast<float>(args.out_width));
    float* dst = args.dst + static_cast<std::int64_t>(tap) * args.count;
    for (int c = channel_begin; c < channel_end; ++c) {
      dst[c] = static_cast<float>(sums[c - channel_begin]) * (args.scale[c] * share);
    }
  }

  static void run_bfloat16(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end) {
    float sums[kShiftedMeansChannels] = {};
    add_narrow(args, args.narrow, tap, channel_begin, channel_end,
               [&](int c, std::int16_t value) { sums[c] += from_bfloat16(value); });
    const float share = 1.0f / (static_cast<float>(args.out_height) * static_cast<float>(args.out_width));
    float* dst = args.dst + static_cast<std::int64_t>(tap) * args.count;
    for (int c = channel_begin; c < channel_end; ++c) dst[c] = sums[c - channel_begin] * share;
  }

 private:
  // Calls add(channel - channel_begin, value) for every value under a tap.
  template <class Value, class Add>
  [[gnu::always_inline]] static inline void add_narrow(const ShiftedMeansArgs& args, const Value* values, int tap,
                                                       int channel_begin, int channel_end, const Add& add) {
    const int pad = args.kernel / 2;
    const Span rows = inside(tap / args.kernel - pad, args.stride, args.height, args.out_height);
    const Span columns = inside(tap % args.kernel - pad, args.stride, args.width, args.out_width);
    const int channels = channel_end - channel_begin;
    for (int y = rows.begin; y < rows.end; y += args.stride) {
      for (int x = columns.begin; x < columns.end; x += args.stride) {
        const Value* src = values + y * args.row_pitch + x * args.pixel_pitch + channel_begin;
        for (int c = 0; c < channels; ++c) add(c, src[c]);
      }
    }
  }

  struct Span {
    int begin, end;
  };

  // Source positions o * stride + shift for o in [0, outputs) that lie inside [0, size).
  static Span inside(int shift, int stride, int size, int outputs) {
    int begin = shift;
    while (begin < 0) begin += stride;
    const int last = (outputs - 1) * stride + shift;
    return {begin, last < size ? last + 1 : size};
  }

  static const float* at(const ShiftedMeansArgs& args, int y, int x) {
    return args.src + y * args.row_pitch + x * args.pixel_pitch;
  }
};

}  // namespace
}  // namespace faceattr::cpu
