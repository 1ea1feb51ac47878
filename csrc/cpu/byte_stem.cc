#include "cpu/byte_stem.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/narrow_pack.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
namespace {

constexpr int kRun = kStemRow / 4 * 4, kLast = 8;  // whole fours of a row, and what is left of all seven
constexpr int kSum = kStemTaps * kRun + kLast;

static_assert(strip_input_rows(kStripRows) + 3 <= kStemLastPitch);

// Behind the largest strip.
std::uint8_t* last_values(std::uint8_t* strip, int size) {
  return strip + strip_input_rows(kStripRows) * strip_pitch(size);
}

}  // namespace

bool ByteStem::reads(const Plan& plan) {
  return std::all_of(plan.mean, plan.mean + kRgb,
                     [](float mean) { return 2.0f * mean == std::nearbyint(2.0f * mean) && std::abs(mean) <= 255.0f; });
}

ByteStem::ByteStem(const QuantizedStemPhase& phase, const Layout& layout)
    : conv_(&best(kernel_lists().QuadStem, layout.features)),
      stem_(&best(kernel_lists().Stem, layout.features)),
      size_(layout.plan.pixels),
      channels_(layout.plan.tensors[phase.dst].channels),
      padded_(panel_count(channels_, conv_->panel) * conv_->panel),
      panels_(panel_count(channels_, conv_->panel)) {
  GroupPacker packer(channels_, kSum, conv_->panel, sizeof(std::uint8_t));
  for (int o = 0; o < channels_; ++o) {
    for (int ky = 0; ky < kStemTaps; ++ky) {
      const std::int8_t* weights = &phase.weight[(static_cast<std::size_t>(o) * kStemTaps + ky) * kStemRow];
      for (int i = 0; i < kRun; ++i) packer.put(o, ky * kRun + i, weights[i]);
      packer.put(o, kStemTaps * kRun + ky, weights[kRun]);
    }
  }
  weights_ = packer.take();
  for (int i = 0; i < size_ * kRgb; ++i) {
    doubled_mean_.push_back(static_cast<std::int32_t>(2.0f * layout.plan.mean[i % kRgb]));
    doubled_scale_.push_back(2.0f * layout.plan.scale[i % kRgb]);
  }

  for (int y = 0; y < size_ / 2; ++y) rows_.push_back(within(y));
  for (int x = 0; x < size_ / 4; ++x) {
    const int left = rows_[2 * x], right = rows_[2 * x + 1];
    if (columns_.empty() || columns_.back().left != left || columns_.back().right != right) {
      columns_.push_back({x, x, left, right});
    }
    columns_.back().end = x + 1;
  }

  const int kinds = static_cast<int>(withins_.size());
  std::vector<std::int32_t> biases(static_cast<std::size_t>(kinds * kinds + 1) * padded_, 0);
  for (int kind = 0; kind < kinds * kinds; ++kind) {
    const Within rows = withins_[kind / kinds], columns = withins_[kind % kinds];
    for (int o = 0; o < channels_; ++o) {
      std::int32_t& bias = biases[kind * padded_ + o];
      bias = phase.bias[o];
      for (int ky = rows.begin; ky < rows.end; ++ky) {
        for (int i = columns.begin * kRgb; i < columns.end * kRgb; ++i) {
          bias -= phase.weight[(o * kStemTaps + ky) * kStemRow + i] * doubled_mean_[i % kRgb];
        }
      }
    }
  }
  biases_ = pack_bits(biases, 1);
}

int ByteStem::within(int output) {
  const int first = 2 * output - kStemPad;  // of its taps
  const Within taps = {std::max(0, -first), std::min(kStemTaps, size_ - first)};
  const auto found = std::find(withins_.begin(), withins_.end(), taps);
  if (found == withins_.end()) {
    withins_.push_back(taps);
    return static_cast<int>(withins_.size()) - 1;
  }
  return static_cast<int>(found - withins_.begin());
}

const std::int32_t* ByteStem::bias(int row, int column) const {
  return words(biases_) + (static_cast<std::int64_t>(row) * withins_.size() + column) * padded_;
}

bool ByteStem::load_strip(const Pixels& pixels, std::int64_t image, int begin, int end, std::uint8_t* strip) const {
  const int rows = strip_input_rows(end - begin);
  const bool whole = cpu::load_strip(
      pixels, image, size_, 4 * begin - kStemPad, rows, strip, [&](std::uint8_t* dst, const PixelRow& row) {
        if (row.u8 == nullptr) {
          const LoadBytesArgs args = {size_, doubled_mean_.data(), doubled_scale_.data(), dst};
          return stem_->load_f32_bytes(args, row.red, row.green, row.blue);
        }
        std::memcpy(dst, row.u8, static_cast<std::size_t>(size_) * kRgb);
        return true;
      });
  if (!whole) return false;
  std::uint8_t* last = last_values(strip, size_);
  const std::int64_t pitch = strip_pitch(size_);
  for (int x = 0; x < size_ / 2; ++x, last += kStemLastPitch) {
    const std::uint8_t* value = strip + 2 * kRgb * x + kRun;
    for (int y = 0; y < rows; ++y, value += pitch) last[y] = *value;
    std::memset(last + rows, 0, kStemLastPitch - rows);
  }
  return true;
}

void ByteStem::run_row(std::uint8_t* strip, int begin, int y, NarrowStore store) const {
  const std::int32_t* zeros = bias(static_cast<int>(withins_.size()), 0);
  const int upper = rows_[2 * y], lower = rows_[2 * y + 1];
  StemConvArgs args;
  args.src = strip + 4 * (y - begin) * strip_pitch(size_);
  args.last = last_values(strip, size_) + 4 * (y - begin);
  args.pitch = strip_pitch(size_);
  args.weights = weights_.data();
  args.out_channels = channels_;
  args.store = store;
  for (const Columns& columns : columns_) {
    args.begin = columns.begin;
    args.end = columns.end;
    const bool alike = upper == lower && columns.left == columns.right;
    args.store.bias = alike ? bias(upper, columns.left) : zeros;
    for (int r = 0; r < 2; ++r) {
      for (int c = 0; c < 2; ++c) {
        args.biases[r][c] = alike ? nullptr : bias(r == 0 ? upper : lower, c == 0 ? columns.left : columns.right);
      }
    }
    for (int panel = 0; panel < panels_; ++panel) conv_->run(args, panel);
  }
}

}  // namespace faceattr::cpu
