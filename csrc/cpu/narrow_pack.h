// Weights of narrow convolutions in the order in which kernels read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/aligned_buffer.h"
#include "cpu/pack.h"
#include "cpu/runners.h"
#include "plan/memory_planner.h"
#include "plan/phase.h"

namespace faceattr::cpu {

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
