// The kernel family that does almost all the work:
//
//   dst[p, o] = act( sum_s sum_t sum_i src_s[p * step_s + tap_s(t) + i] * weights[o, (s, t, i)] + bias[o] + residual[p,
//   o] )
//
// over output positions p = (oy, ox) and channels o. A tap of a segment is a run of consecutive floats: the three
// columns of a 3x3's row are one run where the segment reads all channels of its source. The sum over (s, t, i) is one
// chain of multiply-adds in this order, for every tile size: the bits of an output do not depend on how the work was
// cut.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

struct ConvSegment {
  std::int64_t offset = 0;             // from `base`: what the first tap of output (0, 0) reads
  std::int64_t row_step = 0;           // floats from an output row to the next: stride * row pitch
  std::int64_t column_step = 0;        // likewise for columns
  const std::int64_t* runs = nullptr;  // offset of each run from the output's first tap
  int run_count = 0;
  int run_length = 0;
};

struct SegmentedConvArgs {
  const float* base = nullptr;
  const ConvSegment* segments = nullptr;
  int segment_count = 0;
  const float* weights = nullptr;  // [panel][K][panel width], K = all runs of all segments; zero-padded channels
  const float* bias = nullptr;     // padded to whole panels; null: bare sums of whole panels are written
  std::int64_t k = 0;
  int out_channels = 0;
  int out_width = 0;
  bool relu = false;
  float* dst = nullptr;  // of output (0, 0)
  std::int64_t dst_row_pitch = 0, dst_pixel_pitch = 0;
  const float* residual = nullptr;  // may be dst, or null
  std::int64_t residual_row_pitch = 0, residual_pixel_pitch = 0;
  // Memory that a later phase reads, fetched meanwhile, a cache line per step of K, by all but the last two tiles of a
  // call; null: nothing.
  const char* ahead = nullptr;
};

// Computes output positions [pixel_begin, pixel_end) in row-major order, channels of one panel. Reads nothing outside
// the runs, writes nothing but those outputs. Returns how many bytes from `ahead` on it has fetched.
struct SegmentedConvKernel {
  const char* name;
  int panel;  // output channels per panel
  std::int64_t (*run)(const SegmentedConvArgs& args, int pixel_begin, int pixel_end, int panel);
};

}  // namespace faceattr::cpu
