// The segments of a convolution as its kernel reads them: the runs of values that lie next to each other in the arena.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels/segmented_conv/segmented_conv.h"
#include "plan/memory_planner.h"
#include "plan/phase.h"

namespace faceattr::cpu {

// What a segment reads of each position: `count` values from `begin`, counted from the arena's first for the map's
// first position.
struct SegmentRead {
  std::int64_t begin;
  int count;
};

class BoundSegments {
 public:
  BoundSegments() = default;
  // `read`(segment, placement of its source) is a SegmentRead.
  template <class Read>
  BoundSegments(const std::vector<Segment>& segments, const std::vector<MapPlacement>& maps, const Read& read) {
    std::vector<std::size_t> first_run;
    for (const Segment& s : segments) {
      const MapPlacement& src = maps[s.src];
      const SegmentRead values = read(s, src);
      const int pad = s.kernel / 2;
      ConvSegment segment;
      segment.offset = values.begin - pad * (src.row_pitch + src.pixel_pitch);
      segment.row_step = s.stride * src.row_pitch;
      segment.column_step = s.stride * src.pixel_pitch;
      // A row of taps is contiguous where the segment reads whole positions.
      const bool whole = values.count == src.pixel_pitch;
      const int columns = whole ? 1 : s.kernel;
      segment.run_length = (whole ? s.kernel : 1) * values.count;
      segment.run_count = s.kernel * columns;
      first_run.push_back(runs_.size());
      for (int ky = 0; ky < s.kernel; ++ky) {
        for (int kx = 0; kx < columns; ++kx) runs_.push_back(ky * src.row_pitch + kx * src.pixel_pitch);
      }
      k_ += static_cast<std::int64_t>(segment.run_count) * segment.run_length;
      segments_.push_back(segment);
    }
    for (std::size_t i = 0; i < segments_.size(); ++i) segments_[i].runs = runs_.data() + first_run[i];
  }
  // Segments point at runs: what moves takes them along, a copy would not.
  BoundSegments(BoundSegments&&) = default;
  BoundSegments& operator=(BoundSegments&&) = default;

  std::int64_t k() const { return k_; }  // values that an output sums up
  template <class Args>
  void put(Args& args) const {
    args.segments = segments_.data();
    args.segment_count = static_cast<int>(segments_.size());
    args.k = k_;
  }

 private:
  std::vector<ConvSegment> segments_;
  std::vector<std::int64_t> runs_;
  std::int64_t k_ = 0;
};

}  // namespace faceattr::cpu
