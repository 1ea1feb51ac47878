#include "cpu/quantized_runners.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/pack.h"

namespace faceattr::cpu {
namespace {

constexpr int kTaps = 7, kPad = 3, kRgb = 3;
constexpr int kStemRun = kTaps * kRgb + 1;  // of even length: one value more, times zero
// As in the stem of floats.
constexpr int kStripRows = 8;
constexpr int strip_input_rows(int pooled_rows) { return 4 * pooled_rows + kTaps - 2; }

// What one run of a tap reads: channels [begin, end) of the source, of which weights exist for [start, start + count).
struct Run {
  int begin, end, start, count;
};

Run aligned(const Segment& s) { return {s.start / 4 * 4, (s.start + s.count + 3) / 4 * 4, s.start, s.count}; }

// Weights row by row, [oc][K], in the order in which runs read: [panel][K / 2][width][2].
class Packer {
 public:
  Packer(int out_channels, std::int64_t k, int width)
      : k_(k), width_(width), panels_(panel_count(out_channels, width)), packed_(floats(panels_ * k * width)) {
    std::memset(packed_.data(), 0, packed_.size() * sizeof(float));
  }

  void put(int channel, std::int64_t i, std::int8_t weight) {
    const std::int64_t row = channel / width_ * k_ + i / 2 * 2;
    integers(packed_.data())[row * width_ + channel % width_ * 2 + i % 2] = weight;
  }
  AlignedBuffer take() { return std::move(packed_); }

 private:
  static std::size_t floats(std::int64_t integers) {
    return static_cast<std::size_t>(integers + kIntegersPerFloat - 1) / kIntegersPerFloat;
  }

  std::int64_t k_;
  int width_;
  std::int64_t panels_;
  AlignedBuffer packed_;
};

// 32-bit integers where the kernel expects them, padded as a bias.
AlignedBuffer pack_sums(const std::vector<std::int32_t>& values, int width) {
  std::vector<float> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return pack_bias(bits, width);
}

const std::int32_t* sums(const AlignedBuffer& buffer) { return reinterpret_cast<const std::int32_t*>(buffer.data()); }

}  // namespace

QuantizedConvRunner::QuantizedConvRunner(const QuantizedConvPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().QuantizedConv, layout.features)), shape_(layout.plan.tensors[phase.dst]) {
  const auto& tensors = layout.plan.tensors;
  const auto& maps = layout.memory.maps;
  std::vector<Run> reads;  // by segment
  std::vector<std::size_t> first_run;
  for (const Segment& s : phase.segments) {
    const MapPlacement& src = maps[s.src];
    const int pad = s.kernel / 2;
    Run read = aligned(s);
    ConvSegment segment;
    segment.row_step = s.stride * src.row_pitch;
    segment.column_step = s.stride * src.pixel_pitch;
    segment.offset =
        static_cast<std::int64_t>(src.integer_interior()) + read.begin - pad * (src.row_pitch + src.pixel_pitch);
    // A row of taps is contiguous where the segment reads whole positions.
    const bool whole = read.end - read.begin == src.pixel_pitch;
    const int columns = whole ? 1 : s.kernel;
    segment.run_length = (whole ? s.kernel : 1) * (read.end - read.begin);
    segment.run_count = s.kernel * columns;
    first_run.push_back(runs_.size());
    for (int ky = 0; ky < s.kernel; ++ky) {
      for (int kx = 0; kx < columns; ++kx) runs_.push_back(ky * src.row_pitch + kx * src.pixel_pitch);
    }
    args_.k += static_cast<std::int64_t>(segment.run_count) * segment.run_length;
    segments_.push_back(segment);
    reads.push_back(read);
  }
  for (std::size_t i = 0; i < segments_.size(); ++i) segments_[i].runs = runs_.data() + first_run[i];

  Packer packer(shape_.channels, args_.k, kernel_->panel);
  const std::int8_t* weight = phase.weight.data();
  for (int o = 0; o < shape_.channels; ++o) {
    std::int64_t i = 0;
    for (std::size_t s = 0; s < reads.size(); ++s) {
      for (int tap = 0; tap < phase.segments[s].kernel * phase.segments[s].kernel; ++tap) {
        for (int c = reads[s].begin; c < reads[s].end; ++c, ++i) {
          if (c >= reads[s].start && c < reads[s].start + reads[s].count) packer.put(o, i, *weight++);
        }
      }
    }
  }
  weights_ = packer.take();
  bias_ = pack_sums(phase.bias, kernel_->panel);
  multiplier_ = pack_bias(phase.multiplier, kernel_->panel);
  args_.segments = segments_.data();
  args_.segment_count = static_cast<int>(segments_.size());
  args_.weights = integers(weights_.data());
  args_.out_channels = shape_.channels;
  args_.out_width = shape_.width;

  Requantize& to = args_.requantize;
  to.bias = sums(bias_);
  to.multiplier = multiplier_.data();
  to.relu = phase.relu;
  has_floats_ = !shape_.integer();
  has_integers_ = shape_.integer() || phase.copy >= 0;
  has_residual_ = phase.residual >= 0;
  if (has_floats_) {
    floats_ = maps[phase.dst];
    to.dst_row_pitch = floats_.row_pitch;
    to.dst_pixel_pitch = floats_.pixel_pitch;
  }
  if (has_residual_) {
    residual_ = maps[phase.residual];
    to.residual_row_pitch = residual_.row_pitch;
    to.residual_pixel_pitch = residual_.pixel_pitch;
  }
  if (has_integers_) {
    const int written = has_floats_ ? phase.copy : phase.dst;
    integers_shape_ = tensors[written];
    integers_ = maps[written];
    to.integers_row_pitch = integers_.row_pitch;
    to.integers_pixel_pitch = integers_.pixel_pitch;
    to.low = static_cast<float>(integers_shape_.low);
  }
  if (phase.copy >= 0) {
    inverse_ = pack_bias(phase.inverse, kernel_->panel);
    to.inverse = inverse_.data();
  }
  blocking_ = Blocking(phase.segments, tensors, shape_, sizeof(std::int16_t),
                       4.0 * static_cast<double>(weights_.size()), panel_count(shape_.channels, kernel_->panel));
}

void QuantizedConvRunner::run(const ImageMemory& memory, const Team& team) const {
  QuantizedConvArgs args = args_;
  args.base = integers(memory.arena);
  if (has_floats_) {
    clear_border(floats_, shape_, memory.arena, team);
    args.requantize.dst = memory.arena + floats_.interior();
  }
  if (has_integers_) {
    clear_border(integers_, integers_shape_, memory.arena, team);
    args.requantize.integers = integers(memory.arena) + integers_.integer_interior();
  }
  if (has_residual_) args.requantize.residual = memory.arena + residual_.interior();
  blocking_.run(team, [&](int begin, int end, int panel) { kernel_->run(args, begin, end, panel); });
}

QuantizedStemRunner::QuantizedStemRunner(const QuantizedStemPhase& phase, const Layout& layout)
    : conv_(&best(kernel_lists().QuantizedConv, layout.features)),
      stem_(&best(kernel_lists().Stem, layout.features)),
      size_(layout.plan.pixels),
      channels_(layout.plan.tensors[phase.dst].channels),
      panels_(panel_count(channels_, conv_->panel)),
      strip_pitch_(static_cast<std::int64_t>(size_ + 2 * kPad) * kRgb),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]) {
  Packer packer(channels_, kTaps * kStemRun, conv_->panel);
  for (int o = 0; o < channels_; ++o) {
    for (int i = 0; i < kTaps * kTaps * kRgb; ++i) {
      const int row = i / (kTaps * kRgb);
      packer.put(o, row * kStemRun + i % (kTaps * kRgb), phase.weight[o * kTaps * kTaps * kRgb + i]);
    }
  }
  weights_ = packer.take();
  bias_ = pack_sums(phase.bias, conv_->panel);
  multiplier_ = pack_bias(phase.multiplier, conv_->panel);
  for (int i = 0; i < size_ * kRgb; ++i) {
    mean_.push_back(layout.plan.mean[i % kRgb]);
    doubled_scale_.push_back(2.0f * layout.plan.scale[i % kRgb]);
  }
  for (int ky = 0; ky < kTaps; ++ky) runs_[ky] = ky * strip_pitch_;
  segment_.row_step = 2 * strip_pitch_;
  segment_.column_step = 2 * kRgb;
  segment_.run_count = kTaps;
  segment_.run_length = kStemRun;
}

// The last run of the last row ends kRgb - 1 values before the strip does: its one more value is in the strip.
std::size_t QuantizedStemRunner::scratch_floats() const {
  const std::size_t values = strip_input_rows(kStripRows) * strip_pitch_ + std::int64_t{2} * (size_ / 2) * channels_;
  return (values + kIntegersPerFloat - 1) / kIntegersPerFloat;
}

bool QuantizedStemRunner::load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows,
                                     std::int16_t* strip) const {
  const std::int64_t plane = static_cast<std::int64_t>(size_) * size_;
  bool finite = true;
  for (int r = 0; r < rows; ++r, strip += strip_pitch_) {
    const int y = first_row + r;
    if (y < 0 || y >= size_) {  // padding is zero after normalisation, whatever the mean
      std::fill_n(strip, strip_pitch_, std::int16_t{0});
      continue;
    }
    std::fill_n(strip, kPad * kRgb, std::int16_t{0});
    std::fill_n(strip + strip_pitch_ - kPad * kRgb, kPad * kRgb, std::int16_t{0});
    const LoadIntegersArgs args = {size_, mean_.data(), doubled_scale_.data(), strip + kPad * kRgb};
    if (pixels.u8 != nullptr) {
      stem_->load_u8_integers(args, pixels.u8 + (image * plane + static_cast<std::int64_t>(y) * size_) * kRgb);
    } else {
      const float* red = pixels.f32 + image * plane * kRgb + static_cast<std::int64_t>(y) * size_;
      finite &= stem_->load_f32_integers(args, red, red + plane, red + 2 * plane);
    }
  }
  return finite;
}

bool QuantizedStemRunner::run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory,
                              const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const int width = size_ / 4;
  const Team::Range rows = team.share(width);
  std::int16_t* strip = integers(memory.scratch);
  std::int16_t* convolved = strip + strip_input_rows(kStripRows) * strip_pitch_;  // two rows, pooled while in cache
  ConvSegment segment = segment_;
  segment.runs = runs_;
  QuantizedConvArgs args;
  args.base = strip;
  args.segments = &segment;
  args.segment_count = 1;
  args.weights = reinterpret_cast<const std::int16_t*>(weights_.data());
  args.k = kTaps * kStemRun;
  args.out_channels = channels_;
  args.out_width = size_ / 2;
  args.requantize.bias = sums(bias_);
  args.requantize.multiplier = multiplier_.data();
  args.requantize.integers = convolved;
  args.requantize.integers_pixel_pitch = channels_;
  args.requantize.integers_row_pitch = static_cast<std::int64_t>(size_ / 2) * channels_;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    finite &= load_strip(pixels, image, 4 * begin - kPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      segment.offset = 4 * (y - begin) * strip_pitch_;
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, 0, 2 * args.out_width, panel);
      stem_->max_pool_integers(convolved, convolved + args.requantize.integers_row_pitch, width, channels_,
                               dst_.pixel_pitch, integers(memory.arena) + dst_.integer_interior() + y * dst_.row_pitch);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
