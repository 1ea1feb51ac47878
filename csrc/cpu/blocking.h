// In which order a convolution goes through positions and panels of output channels. Which outputs are computed when
// has no effect on their bits.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "plan/phase.h"

namespace faceattr::cpu {

class Blocking {
 public:
  Blocking() = default;

  // Either the weights of one panel stay in cache while all positions pass, or a block of positions stays while all
  // panels pass: whichever moves fewer bytes from the outer cache.
  Blocking(const std::vector<Segment>& segments, const std::vector<TensorShape>& tensors, const TensorShape& dst,
           double bytes_per_value, double weight_bytes, int panels)
      : pixels_(dst.height * dst.width), panels_(panels), few_weights_(weight_bytes <= kCacheBytes) {
    double input = 0;
    for (const Segment& s : segments) {
      const TensorShape& src = tensors[s.src];
      const double used = s.kernel >= s.stride ? 1.0 : 1.0 / s.stride;  // rows that a strided 1x1 skips are not loaded
      input += bytes_per_value * src.height * src.width * s.count * used;
    }
    double least = weight_bytes + (input > kCacheBytes ? input * panels_ : input);
    for (int rows = dst.height; rows >= 1; --rows) {
      const int blocks = (dst.height + rows - 1) / rows;
      if (input / blocks > kCacheBytes) continue;
      const double bytes = input + (weight_bytes > kCacheBytes ? weight_bytes * blocks : weight_bytes);
      if (bytes < least) {
        least = bytes;
        panel_outer_ = false;
        blocks_ = blocks;
      }
    }
  }

  // Calls run(first position, behind the last, panel) for this member's share.
  template <class Run>
  void run(const Team& team, const Run& run) const {
    std::int64_t blocks = blocks_;
    bool panel_outer = panel_outer_;
    if (team.size > 1 && blocks < team.size && (few_weights_ || pixels_ >= kOwnPositions * team.size)) {
      blocks = team.size;  // a thread reads and writes rows, which others leave alone, and all weights
      panel_outer = false;
    } else if (team.size > 1) {
      while (blocks * panels_ % team.size != 0 && blocks * panels_ < kItemsPerThread * team.size && blocks < pixels_)
        ++blocks;
    }
    const Team::Range items = team.share(blocks * panels_);
    for (std::int64_t item = items.begin; item < items.end; ++item) {
      const std::int64_t panel = panel_outer ? item / blocks : item % panels_;
      const std::int64_t block = panel_outer ? item % blocks : item / panels_;
      run(static_cast<int>(pixels_ * block / blocks), static_cast<int>(pixels_ * (block + 1) / blocks),
          static_cast<int>(panel));
    }
  }

 private:
  // What may stay in a core's cache between uses: half of 512 KiB, the smallest L2 of current servers.
  static constexpr double kCacheBytes = 256.0 * 1024;
  // Positions of one thread for which all weights are read from an outer cache as fast as they are used: a core
  // computes a vector of 64 bytes of them in as many cycles as there are positions, and gets one every 5 to 10. Rows of
  // its own pay where cores share no cache, or a map is read again: lines that another core has read are not written at
  // once.
  static constexpr int kOwnPositions = 24;
  // With fewer work items than this per thread, positions are cut further so that no thread waits long for another.
  static constexpr int kItemsPerThread = 8;

  std::int64_t pixels_ = 0;
  int panels_ = 0;
  bool few_weights_ = false;  // that stay in cache
  bool panel_outer_ = true;   // all positions of a panel, then the next panel; else all panels of a block of positions
  int blocks_ = 1;            // of positions
};

}  // namespace faceattr::cpu
