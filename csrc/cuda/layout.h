// Where values lie on the GPU: functions that host packing and kernels share.
//
// A map is [image][channels / g][height * width][g]: 16 bytes per group of g channels, 4 of float32, 8 of 16-bit
// formats, 16 integers. A row of an 8x8 matrix, a cp.async and a wgmma core-matrix row all have these 16 bytes, and
// eight positions of a group are the 128 bytes that shared memory serves without a conflict. Channels that only fill
// the last group up are zero. There is no border.
//
// A convolution reads K by steps of two groups, 32 bytes: what one tensor-core instruction takes. A tap of a segment is
// as many steps as its groups need; a missing second group counts as zeros.
#pragma once

#include <cstdint>

#include "cuda/types.h"
#include "plan/phase.h"

namespace faceattr::cuda {

constexpr int kGroupBytes = 16;
constexpr int kStepGroups = 2;

constexpr int value_bytes(Format format) { return format == Format::kFloat ? 4 : format == Format::kInteger ? 1 : 2; }
constexpr int group_channels(Format format) { return kGroupBytes / value_bytes(format); }
constexpr FA_HOST_DEVICE int divide_up(int a, int b) { return (a + b - 1) / b; }
constexpr int group_count(int channels, Format format) { return divide_up(channels, group_channels(format)); }

// In units of 16 bytes.
constexpr FA_HOST_DEVICE int64_t map_index(int image, int group, int position, int groups, int positions) {
  return (static_cast<int64_t>(image) * groups + group) * positions + position;
}

// ---- Weights: [step][2 groups][padded channels][16 bytes].

// Output channels are packed in blocks of 16 such that the two products of eight channels that a thread keeps hold four
// neighbouring ones: lane 4 g + t has columns 2 t and 2 t + 1 of both, which are channels 4 t … 4 t + 3 of the block.
constexpr int kChannelBlock = 16;
constexpr FA_HOST_DEVICE int weight_column(int channel) {
  const int in_block = channel % kChannelBlock;
  const int thread = in_block / 4, product = in_block % 4 / 2, column = in_block % 2;
  return channel - in_block + 8 * product + 2 * thread + column;
}
constexpr FA_HOST_DEVICE int padded_channels(int channels) {
  return divide_up(channels, kChannelBlock) * kChannelBlock;
}

// In units of 16 bytes.
constexpr FA_HOST_DEVICE int64_t weight_index(int step, int half, int column, int padded) {
  return (static_cast<int64_t>(step) * kStepGroups + half) * padded + column;
}

// The order of a segment's steps: `block` of them at a time, and for each block all taps. block >= steps: tap by tap,
// each with all its channels. A small block: all taps read the same few channels, which then stay in shared memory.
struct StepOrder {
  int steps;  // of a tap
  int taps;
  int block;
};

// A place in that order, which every thread that loads keeps for itself. The order is given as a template parameter's
// operator() so that kernels read it where it lies: order(segment).
struct StepCursor {
  int segment = 0, first = 0, tap = 0, offset = 0;  // step first + offset of the tap

  FA_HOST_DEVICE int step() const { return first + offset; }

  // By `count` steps; beyond the last segment it stays at whatever segment it has reached.
  template <class Order>
  FA_HOST_DEVICE void advance(int count, int segments, const Order& order) {
    offset += count;
    while (segment < segments) {
      const StepOrder o = order(segment);
      const int left = o.steps - first;
      const int length = left < o.block ? left : o.block;
      if (offset < length) return;
      offset -= length;
      if (++tap < o.taps) continue;
      tap = 0;
      first += o.block;
      if (first < o.steps) continue;
      first = 0;
      ++segment;
    }
  }
};

}  // namespace faceattr::cuda
