#include "plan/phase.h"

#include <algorithm>

#include <cmath>
#include <cstddef>
#include <stdexcept>

namespace faceattr {
namespace {

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), kinds_(plan.tensors.size(), TensorKind::kUnwritten) {}

  void run() {
    require(plan_.pixels > 0 && plan_.pixels % 4 == 0, "pixels must be a positive multiple of 4");
    for (float s : plan_.scale) require(std::isfinite(s) && s != 0, "scale must be finite and not 0");
    for (float m : plan_.mean) require(std::isfinite(m), "mean must be finite");
    for (const TensorShape& t : plan_.tensors) {
      require(t.height > 0 && t.width > 0 && t.channels > 0, "tensor sizes must be positive");
      require(t.height <= kMaxSide && t.width <= kMaxSide && t.channels <= kMaxChannels, "tensor too large");
      const bool integer = t.format == Format::kInteger;
      require(t.scale.size() == static_cast<std::size_t>(integer ? t.channels : 0),
              "integers need a scale per channel");
      require(t.low == 0 || (integer && t.low == -128), "integers start at 0 or -128");
    }
    for (; phase_ < plan_.phases.size(); ++phase_) {
      std::visit([&](const auto& phase) { visit(phase); }, plan_.phases[phase_]);
    }
    for (const Output& output : plan_.outputs) {
      const TensorShape& t = shape(output.tensor);
      require(kinds_[output.tensor] != TensorKind::kUnwritten, "output is never written");
      require(in_range(output.start, output.count, t.channels), "output channels out of range");
    }
  }
  const std::vector<TensorKind>& kinds() const { return kinds_; }

 private:
  static constexpr int kMaxSide = 1 << 13, kMaxChannels = 1 << 20;
  // 255 * 127 * 2^15 = 1.06e9 leaves half of 32 bits for the bias.
  static constexpr std::size_t kMaxQuantizedTerms = std::size_t{1} << 15;

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("plan, phase " + std::to_string(phase_) + ": " + what);
  }
  void require(bool condition, const char* what) const {
    if (!condition) fail(what);
  }
  static bool same(const TensorShape& a, const TensorShape& b) {
    return a.height == b.height && a.width == b.width && a.channels == b.channels;
  }
  static bool in_range(int start, int count, int size) { return start >= 0 && count > 0 && start <= size - count; }

  const TensorShape& shape(int id) const {
    if (id < 0 || id >= static_cast<int>(plan_.tensors.size())) fail("no tensor " + std::to_string(id));
    return plan_.tensors[id];
  }
  const TensorShape& read(int id, TensorKind kind) const {
    const TensorShape& t = shape(id);
    if (kinds_[id] == TensorKind::kUnwritten) fail("tensor " + std::to_string(id) + " is read before it is written");
    if (kinds_[id] != kind) fail("tensor " + std::to_string(id) + ": maps and vectors are read by different phases");
    return t;
  }
  const TensorShape& write(int id, TensorKind kind) {
    const TensorShape& t = shape(id);
    if (kinds_[id] != TensorKind::kUnwritten) fail("tensor " + std::to_string(id) + " is written twice");
    if (kind == TensorKind::kVector) require(t.height == 1 && t.width == 1, "a vector must be 1x1");
    kinds_[id] = kind;
    return t;
  }
  template <class Weight, class Bias>
  void check_weights(const std::vector<Weight>& weight, const std::vector<Bias>& bias, int oc, std::size_t k) const {
    if (weight.size() != k * oc) {
      fail("expected " + std::to_string(k * oc) + " weights, got " + std::to_string(weight.size()));
    }
    if (bias.size() != static_cast<std::size_t>(oc)) {
      fail("expected " + std::to_string(oc) + " biases, got " + std::to_string(bias.size()));
    }
  }

  template <class StemPhase>
  const TensorShape& check_stem(const StemPhase& phase, bool integer, int k = 7 * 7 * 3) {
    const TensorShape& dst = write(phase.dst, TensorKind::kMap);
    require(dst.height == plan_.pixels / 4 && dst.width == plan_.pixels / 4,
            "stem output must be a quarter of the input");
    require((dst.format == Format::kInteger) == integer, "the stem writes another format");
    check_weights(phase.weight, phase.bias, dst.channels, k);
    return dst;
  }
  void visit(const StemPhase& phase) { check_stem(phase, false); }
  void visit(const WinogradStemPhase& phase) {
    const TensorShape& dst = check_stem(phase, false, kWinogradStemProducts);
    require(dst.format != Format::kHalf, "tiles of the stem are float32 or bfloat16");
  }
  void visit(const QuantizedStemPhase& phase) {
    const TensorShape& dst = check_stem(phase, true);
    require(dst.low == 0, "the stem's integers start at 0");
    require(static_cast<int>(phase.multiplier.size()) == dst.channels, "a multiplier per channel is needed");
    require(std::all_of(phase.multiplier.begin(), phase.multiplier.end(), [](float m) { return m >= 0; }),
            "a multiplier of the stem is negative");
  }

  std::size_t visit(const Segment& s, const TensorShape& dst, Format format) const {
    const TensorShape& src = read(s.src, TensorKind::kMap);
    require(src.format == format, "a segment's source has another format");
    require(s.kernel == 1 || s.kernel == 3, "kernel must be 1 or 3");
    require(s.stride >= 1, "stride must be positive");
    require(in_range(s.start, s.count, src.channels), "segment channels out of range");
    require(strided(src.height, s.stride) == dst.height && strided(src.width, s.stride) == dst.width,
            "source, stride and destination sizes do not fit");
    return static_cast<std::size_t>(s.kernel) * s.kernel * s.count;
  }

  void check_residual(int residual, const TensorShape& dst) const {
    if (residual < 0) return;
    const TensorShape& r = read(residual, TensorKind::kMap);
    require(same(r, dst), "residual shape differs");
    require(r.format == dst.format, "residual format differs");
    require(r.format == Format::kFloat || r.format == Format::kHalf, "a residual is float32 or half");
  }

  void write_copy(int copy, const TensorShape& dst) {
    if (copy < 0) return;
    const TensorShape& c = write(copy, TensorKind::kMap);
    require(same(c, dst), "the copy's shape differs");
    require(c.narrow() && !dst.narrow(), "a copy is a narrow one of floats");
  }

  void visit(const SegmentedConvPhase& phase) {
    require(!phase.segments.empty(), "a convolution needs a segment");
    visit(phase, shape(phase.segments[0].src).format);
  }

  // `format`: of the segments' sources.
  void visit(const SegmentedConvPhase& phase, Format format) {
    std::size_t k = 0;
    const TensorShape& dst = shape(phase.dst);
    require(format != Format::kInteger, "integers are read by quantized convolutions");
    for (const Segment& s : phase.segments) k += visit(s, dst, format);
    check_residual(phase.residual, dst);
    require(dst.format == Format::kFloat || dst.format == format, "the destination's format does not fit");
    write(phase.dst, TensorKind::kMap);
    require(phase.copy < 0 || (format == Format::kBfloat16 && shape(phase.copy).format == Format::kBfloat16),
            "the copy's format does not fit");
    write_copy(phase.copy, dst);
    check_weights(phase.weight, phase.bias, dst.channels, k);
  }

  void visit(const WinogradConvPhase& phase) {
    std::size_t k = 0;
    const TensorShape& dst = shape(phase.direct.dst);
    require(!phase.segments.empty(), "a Winograd convolution needs a segment");
    const int stride = phase.segments[0].stride;
    const Format format = shape(phase.segments[0].src).format;
    for (const Segment& s : phase.segments) {
      require(s.kernel == 3 && (s.stride == 1 || s.stride == 2), "a Winograd segment must be 3x3 at stride 1 or 2");
      require(s.stride == stride, "Winograd segments must have one stride");
      k += visit(s, dst, format) / 9;
    }
    const int filters = winograd_filters(stride, phase.tile);
    if (filters == 0) {
      fail("no Winograd form of stride " + std::to_string(stride) + " makes tiles of side " +
           std::to_string(phase.tile));
    }
    const std::size_t expected = filters * k * dst.channels;
    if (phase.weight.size() != expected) {
      fail("expected " + std::to_string(expected) + " transformed weights, got " + std::to_string(phase.weight.size()));
    }
    visit(phase.direct, format);
  }

  // Of tiles of 4x4, the largest sum of an output's magnitudes of weights, which the points give back: along an axis,
  // row 0 of their matrix is 6 times the first tap, 5 is 12 times the last, 3 is first + 2 middle + 4 last.
  static std::int64_t transformed_weights(const QuantizedConvPhase& phase, int out_channels, int channels) {
    constexpr int kSide = 6, kScale = 12;  // of all three
    const auto taps = [](const std::int64_t* points, int step, std::int64_t* taps) {
      taps[0] = 2 * points[0];
      taps[2] = points[5 * step];
      taps[1] = (kScale * points[3 * step] - taps[0] - 4 * taps[2]) / 2;
    };
    std::int64_t most = 0;
    for (int o = 0; o < out_channels; ++o) {
      std::int64_t sum = 0;
      for (int c = 0; c < channels; ++c) {
        std::int64_t points[kSide * kSide], half[3 * kSide], weights[3];
        for (int p = 0; p < kSide * kSide; ++p) {
          points[p] = phase.transformed_weight[(static_cast<std::size_t>(p) * out_channels + o) * channels + c];
        }
        for (int x = 0; x < kSide; ++x) {
          taps(points + x, kSide, weights);
          for (int y = 0; y < 3; ++y) half[y * kSide + x] = weights[y];
        }
        for (int y = 0; y < 3; ++y) {
          taps(half + y * kSide, 1, weights);
          for (const std::int64_t w : weights) sum += std::abs(w) / (kScale * kScale);
        }
      }
      most = std::max(most, sum);
    }
    return most;
  }

  void visit(const QuantizedConvPhase& phase) {
    std::size_t k = 0;
    const TensorShape& dst = shape(phase.dst);
    require(!phase.segments.empty() || !phase.transformed.empty(), "a convolution needs a segment");
    for (const Segment& s : phase.segments) k += visit(s, dst, Format::kInteger);
    int channels = 0;
    for (const Segment& s : phase.transformed) {
      require(s.kernel == 3 && s.stride == 1, "a transformed segment must be 3x3 at stride 1");
      visit(s, dst, Format::kInteger);
      channels += s.count;
    }
    require(k + 9 * channels <= kMaxQuantizedTerms, "too many products for sums of 32 bits");
    require(phase.tile == 2 || phase.tile == 4, "integers are transformed in tiles of 2x2 or 4x4");
    const std::size_t points = static_cast<std::size_t>(winograd_filters(1, phase.tile)) * dst.channels * channels;
    require(phase.transformed_weight.size() == points, "transformed weights have the wrong size");
    require(phase.tile == 2 ? channels <= kQuantizedWinogradChannels
                            : transformed_weights(phase, dst.channels, channels) <= kQuantizedWinogradWeights,
            "too many transformed channels for sums of 32 bits");
    check_weights(phase.weight, phase.bias, dst.channels, k);
    const auto per_channel = [&](const std::vector<float>& factors, bool needed) {
      require(factors.size() == static_cast<std::size_t>(needed ? dst.channels : 0), "a factor per channel is needed");
    };
    per_channel(phase.multiplier, true);
    per_channel(phase.inverse, phase.copy >= 0);
    check_residual(phase.residual, dst);
    require(dst.format == Format::kFloat || dst.format == Format::kInteger, "the destination's format does not fit");
    write(phase.dst, TensorKind::kMap);
    require(phase.copy < 0 || shape(phase.copy).format == Format::kInteger, "the copy's format does not fit");
    write_copy(phase.copy, dst);
  }

  void visit(const QuantizePhase& phase) {
    const TensorShape& src = read(phase.src, TensorKind::kMap);
    const TensorShape& dst = write(phase.dst, TensorKind::kMap);
    require(src.format == Format::kFloat && dst.format == Format::kInteger, "floats become integers");
    require(same(src, dst), "source and destination differ in shape");
    require(static_cast<int>(phase.inverse.size()) == dst.channels, "a factor per channel is needed");
  }

  void visit(const ShiftedMeansPhase& phase) {
    const TensorShape& src = read(phase.src, TensorKind::kMap);
    const TensorShape& dst = write(phase.dst, TensorKind::kVector);
    require(phase.kernel == 1 || phase.kernel == 3, "kernel must be 1 or 3");
    require(phase.stride >= 1, "stride must be positive");
    require(in_range(phase.start, phase.count, src.channels), "channels out of range");
    require(dst.channels == phase.kernel * phase.kernel * phase.count, "destination size does not fit");
  }

  void visit(const LinearHeadPhase& phase) {
    std::size_t k = 0;
    require(!phase.inputs.empty(), "a linear head needs an input");
    for (const LinearInput& input : phase.inputs) {
      const TensorShape& src = read(input.src, TensorKind::kVector);
      require(in_range(0, input.count, src.channels), "input channels out of range");
      k += input.count;
    }
    const TensorShape& dst = write(phase.dst, TensorKind::kVector);
    if (phase.scale.empty()) {
      require(phase.half_weight.empty(), "weights of 16 bits need a scale");
      check_weights(phase.weight, phase.bias, dst.channels, k);
    } else {
      require(phase.weight.empty(), "weights of 32 bits have no scale");
      require(phase.scale.size() == static_cast<std::size_t>(dst.channels), "scale has the wrong size");
      check_weights(phase.half_weight, phase.bias, dst.channels, k);
    }
  }

  const Plan& plan_;
  std::vector<TensorKind> kinds_;
  std::size_t phase_ = 0;
};

}  // namespace

std::vector<TensorKind> check(const Plan& plan) {
  Checker checker(plan);
  checker.run();
  return checker.kinds();
}

}  // namespace faceattr
