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

// Weights of (output channel, k), in any order, as [panel][K / 2][width][2] with panel = channel / width.
class PairPacker {
 public:
  PairPacker(int out_channels, std::int64_t k, int width)
      : k_(k), width_(width), packed_(floats(panel_count(out_channels, width) * k * width)) {
    std::fill_n(narrow(packed_.data()), kNarrowPerFloat * packed_.size(), std::int16_t{0});
  }

  void put(std::int64_t channel, std::int64_t k, std::int16_t weight) {
    const std::int64_t row = channel / width_ * k_ + k / 2 * 2;
    narrow(packed_.data())[row * width_ + channel % width_ * 2 + k % 2] = weight;
  }
  AlignedBuffer take() { return std::move(packed_); }

 private:
  static std::size_t floats(std::int64_t narrow) {
    return static_cast<std::size_t>(narrow + kNarrowPerFloat - 1) / kNarrowPerFloat;
  }

  std::int64_t k_;
  int width_;
  AlignedBuffer packed_;
};

}  // namespace faceattr::cpu
