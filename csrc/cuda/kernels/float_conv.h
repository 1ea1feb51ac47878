// float32: the stem and the convolution by plain multiply-adds, for a reference on any device; correct, not fast. Sums
// are one chain each, in the order of K.
#pragma once

#include "cuda/kernels/numbers.h"

namespace faceattr::cuda {

struct FloatConv {
  using Params = ConvParams;  // weights and K as those of tensor cores, in groups of four floats; one column tile per
                              // kFloatConvChannels channels
  static constexpr const char* kName = "float_conv";
  static constexpr int kMaxThreads = kFloatConvRows;
  static constexpr int kMinBlocks = 4;

  static FA_DEVICE void run(const Params& params) {
    dependency_wait();
    dependency_trigger();
    const int row = block_index().x / params.column_tiles * kFloatConvRows + thread_index();
    const int channel = block_index().x % params.column_tiles * kFloatConvChannels;
    if (row >= params.rows) return;
    const int positions = params.store.positions, image = row / positions, position = row % positions;
    const int y = position / params.out_width, x = position % params.out_width;
    float acc[kFloatConvChannels] = {};
    StepCursor cursor;
    for (int step = 0; step < params.steps; ++step) {
      const ConvSource& source = params.sources[cursor.segment];
      const int pad = source.kernel / 2;
      const int sy = y * source.stride + cursor.tap / source.kernel - pad;
      const int sx = x * source.stride + cursor.tap % source.kernel - pad;
      const bool inside = sy >= 0 && sy < source.height && sx >= 0 && sx < source.width;
      FA_UNROLL
      for (int half = 0; half < kStepGroups; ++half) {
        const int group = kStepGroups * cursor.step() + half;
        if (!inside || group >= source.groups) continue;
        const int64_t at =
            map_index(image, group, sy * source.width + sx, source.map_groups, source.height * source.width);
        const Float4 value = load_global(reinterpret_cast<const Float4*>(source.map) + at);
        FA_UNROLL
        for (int o = 0; o < kFloatConvChannels; ++o) {
          const int64_t column = weight_index(step, half, weight_column(channel + o), params.padded_channels);
          const Float4 weight = load_global_constant(reinterpret_cast<const Float4*>(params.weights) + column);
          FA_UNROLL
          for (int i = 0; i < 4; ++i) acc[o] = multiply_add(value.v[i], weight.v[i], acc[o]);
        }
      }
      cursor.advance(1, params.source_count, SourceOrder{params});
    }
    FA_UNROLL
    for (int o = 0; o < kFloatConvChannels; o += 4) {
      const float sums[4] = {acc[o], acc[o + 1], acc[o + 2], acc[o + 3]};
      const Float4 value = Numbers<Float32>::value(params.store, sums, channel + o);
      store_values<Float32>(params.store, value, image, position, channel + o);
    }
  }
};

// A block is one strip of pooled positions of one image, a thread one of them by four channels.
struct FloatStem {
  using Params = StemParams;  // weights: [7 * 7 * 3][padded channels] floats, channels in their order
  static constexpr const char* kName = "float_stem";
  static constexpr int kMaxThreads = 128;
  static constexpr int kMinBlocks = 4;

  static FA_DEVICE void run(const Params& params) {
    dependency_wait();
    dependency_trigger();
    const int quads = params.padded_channels / 4, side = params.size / 4;
    const int image = block_index().x / params.strips, strip = block_index().x % params.strips;
    const int items = params.strip_rows * side * quads;
    bool finite = true;
    for (int item = thread_index(); item < items; item += block_threads()) {
      const int row = strip * params.strip_rows + item / (side * quads), column = item / quads % side;
      const int channel = item % quads * 4;
      if (row >= side) break;
      Float4 pooled = {};  // behind a ReLU nothing is below zero
      for (int part = 0; part < 4; ++part) {
        float acc[4] = {};
        const int top = 2 * (2 * row + part / 2) - kStemPad, left = 2 * (2 * column + part % 2) - kStemPad;
        for (int tap = 0; tap < kStemTaps * kStemTaps; ++tap) {
          const int y = top + tap / kStemTaps, x = left + tap % kStemTaps;
          if (y < 0 || y >= params.size || x < 0 || x >= params.size) continue;
          FA_UNROLL
          for (int c = 0; c < 3; ++c) {
            const float value = pixel(params, image, y, x, c);
            finite &= value < FormatRange<Float32>::kLimit && value > -FormatRange<Float32>::kLimit;
            const float* weights =
                reinterpret_cast<const float*>(params.weights) + (tap * 3 + c) * params.padded_channels + channel;
            const Float4 weight = load_global_constant(reinterpret_cast<const Float4*>(weights));
            FA_UNROLL
            for (int i = 0; i < 4; ++i) acc[i] = multiply_add(value, weight.v[i], acc[i]);
          }
        }
        const Float4 value = Numbers<Float32>::value(params.store, acc, channel);
        FA_UNROLL
        for (int i = 0; i < 4; ++i) pooled.v[i] = maximum(pooled.v[i], value.v[i]);
      }
      store_values<Float32>(params.store, pooled, image, row * side + column, channel);
    }
    uint32_t bad = finite ? 0 : 1;
    FA_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) bad |= shuffle_xor(bad, mask);
    const SharedAddress flags = shared_base();
    if (lane_index() == 0) store_shared(flags + static_cast<SharedAddress>(4 * warp_index()), bad);
    sync_block();
    if (thread_index() != 0 || params.flags == nullptr) return;
    for (int warp = 1; warp < block_threads() / 32; ++warp) {
      bad |= load_shared<uint32_t>(flags + static_cast<SharedAddress>(4 * warp));
    }
    store_global(params.flags + image * params.strips + strip, bad);
  }

 private:
  static FA_DEVICE float pixel(const Params& params, int image, int y, int x, int c) {
    if (params.u8) {
      const int64_t at = ((static_cast<int64_t>(image) * params.size + y) * params.size + x) * 3 + c;
      const float byte = static_cast<float>(load_global(static_cast<const uint8_t*>(params.pixels) + at));
      return multiply(add(byte, -params.mean[c]), params.factor[c]);
    }
    const int64_t at = ((static_cast<int64_t>(image) * 3 + c) * params.size + y) * params.size + x;
    return load_global(static_cast<const float*>(params.pixels) + at);
  }
};

}  // namespace faceattr::cuda
