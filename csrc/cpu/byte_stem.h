// The stem of integers on the bytes of pixels. What it multiplies are twice the distances of pixels from the mean, 2 p
// - m, and zero around the image; with bytes p, and zero there too, a sum is
//
//   sum over the taps within the image of w (2 p - m) = 2 * (sum of w p) - (sum over the taps within the image of w m)
//
// in integers, exactly: the last term goes to the bias, of which outputs at the image's edges have their own. Four
// bytes are multiplied where pairs of 16 bits would be two.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runners.h"

namespace faceattr::cpu {

class ByteStem {
 public:
  // Whether a byte has such an integer: whether twice the mean is one.
  static bool reads(const Plan& plan);

  ByteStem(const QuantizedStemPhase& phase, const Layout& layout);
  // The input of pooled rows [begin, end). Returns false where a pixel is none of a byte. The memory of a strip of 16
  // bits is large enough.
  bool load_strip(const Pixels& pixels, std::int64_t image, int begin, int end, std::uint8_t* strip) const;
  // Pooled row y of a strip that begins with row `begin`. `store`: where it goes.
  void run_row(std::uint8_t* strip, int begin, int y, NarrowStore store) const;
  const char* kernel() const { return conv_->name; }
  std::size_t packed_floats() const { return weights_.size() + biases_.size(); }

 private:
  // Taps [begin, end) along an axis lie within the image.
  struct Within {
    int begin, end;
    bool operator==(const Within& o) const { return begin == o.begin && end == o.end; }
  };
  // Pooled columns [begin, end) whose left outputs have the taps `left`, and right ones `right`: indices in withins_.
  struct Columns {
    int begin, end, left, right;
  };

  int within(int output);  // its index in withins_
  const std::int32_t* bias(int row, int column) const;

  const StemConvKernel* conv_;
  const StemKernel* stem_;
  AlignedBuffer weights_;
  std::vector<Within> withins_;
  std::vector<int> rows_;                   // by row of outputs: index in withins_
  std::vector<Columns> columns_;            // by column
  AlignedBuffer biases_;                    // [taps of the row][taps of the column][channel]; then zeros
  std::vector<std::int32_t> doubled_mean_;  // repeated along a row
  std::vector<float> doubled_scale_;
  int size_, channels_, padded_, panels_;
};

}  // namespace faceattr::cpu
