// Weights of narrow convolutions in the order in which kernels read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/bfloat16.h"
#include "cpu/pack.h"
#include "cpu/runners.h"
#include "plan/memory_planner.h"
#include "plan/phase.h"

namespace faceattr::cpu {

// A convolution's numbers as its kernel wants them, before they are packed.
struct NarrowWeights {
  std::vector<std::int16_t> weight;  // [oc][K]: integers, or bfloat16
  std::vector<std::int32_t> bias;    // integers, or the bits of floats
  std::vector<float> multiplier;     // empty for bfloat16
};

// 32 bits each, whatever they are, padded as a bias.
inline AlignedBuffer pack_bits(const std::vector<std::int32_t>& values, int width) {
  std::vector<float> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return pack_bias(bits, width);
}

inline const std::int32_t* words(const AlignedBuffer& buffer) {
  return reinterpret_cast<const std::int32_t*>(buffer.data());
}

template <class Phase>
NarrowWeights quantized(const Phase& phase) {
  return {{phase.weight.begin(), phase.weight.end()}, phase.bias, phase.multiplier};
}

template <class Phase>
NarrowWeights bfloat16(const Phase& phase) {
  NarrowWeights numbers;
  for (float weight : phase.weight) numbers.weight.push_back(to_bfloat16(weight));
  numbers.bias.resize(phase.bias.size());
  std::memcpy(numbers.bias.data(), phase.bias.data(), phase.bias.size() * sizeof(float));
  return numbers;
}

// What one run of a tap reads: channels [begin, end) of the source, multiples of 4, of which weights exist for [start,
// start + count).
struct NarrowRun {
  int begin, end, start, count;

  bool has(int channel) const { return channel >= start && channel < start + count; }
};

inline NarrowRun aligned(const Segment& s) {
  return {s.start / 4 * 4, (s.start + s.count + 3) / 4 * 4, s.start, s.count};
}

// Weights of (output channel, k), in any order, as [panel][K / group][width][group] with panel = channel / width: pairs
// of 16 bits, or fours of 8 for kernels that read such.
class GroupPacker {
 public:
  GroupPacker(int out_channels, std::int64_t k, int width, int value_bytes)
      : k_(k),
        width_(width),
        group_(static_cast<int>(sizeof(float)) / value_bytes),
        packed_(static_cast<std::size_t>(panel_count(out_channels, width_) * ((k + group_ - 1) / group_) * width_)) {
    std::fill_n(packed_.data(), packed_.size(), 0.0f);
  }

  void put(std::int64_t channel, std::int64_t k, std::int16_t weight) {
    const std::int64_t row = channel / width_ * k_ + k / group_ * group_;
    const std::int64_t place = row * width_ + channel % width_ * group_ + k % group_;
    if (group_ == 2) {
      narrow(packed_.data())[place] = weight;
    } else {
      bytes(packed_.data())[place] = static_cast<std::uint8_t>(weight);
    }
  }
  AlignedBuffer take() { return std::move(packed_); }

 private:
  std::int64_t k_;
  int width_, group_;
  AlignedBuffer packed_;
};

}  // namespace faceattr::cpu
