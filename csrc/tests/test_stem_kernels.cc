// The stem's convolutions on every instruction set that this machine can run, against sums in double: bit for bit on
// small integers, which are exact in every format and order, those of floats within a derived bound on random values
// too.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/bfloat16.h"
#include "check.h"
#include "kernels.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

namespace {

constexpr int kRow = kStemTaps * kRgb;

// Input of `width` pooled positions: 4 * width + 5 pixels and a value more, 9 rows.
// Where there are positions enough, the first one is left alone.
int begin_of(int width) { return width > 4 ? 1 : 0; }

int pitch_of(int width) { return (4 * width + 5) * kRgb + 1; }

struct Expected {
  double value, magnitude;  // the pooled sum with bias; what its roundings are proportional to
};

template <class Value, class Weight, class Number>
Expected pooled(const std::vector<Value>& src, const std::vector<Weight>& weight, double bias, int width, int x, int o,
                const Number& number) {
  Expected best = {-1e30, std::abs(bias)};
  for (int r = 0; r < 2; ++r) {
    for (int c = 0; c < 2; ++c) {
      double sum = bias, magnitude = std::abs(bias);
      for (int ky = 0; ky < kStemTaps; ++ky) {
        for (int i = 0; i < kRow; ++i) {
          const std::size_t at = static_cast<std::size_t>(ky + 2 * r) * pitch_of(width) + 2 * kRgb * (2 * x + c) + i;
          const double term =
              number(src[at]) * number(weight[(static_cast<std::size_t>(o) * kStemTaps + ky) * kRow + i]);
          sum += term;
          magnitude += std::abs(term);
        }
      }
      best = {std::max(best.value, sum), std::max(best.magnitude, magnitude)};
    }
  }
  return best;
}

// [oc][7][21] → [oc][7][run], zeros behind.
template <class Weight>
std::vector<Weight> with_runs(const std::vector<Weight>& weight, int oc, int run) {
  std::vector<Weight> runs(static_cast<std::size_t>(oc) * kStemTaps * run);
  for (int i = 0; i < oc * kStemTaps; ++i)
    std::copy_n(&weight[static_cast<std::size_t>(i) * kRow], kRow, &runs[i * run]);
  return runs;
}

// All but where results go.
StemConvArgs stem_args(const void* src, int pitch, const void* weights, int width, int oc, const std::int32_t* bias) {
  StemConvArgs args;
  args.src = src;
  args.pitch = pitch;
  args.weights = weights;
  args.begin = begin_of(width);
  args.end = width;
  args.out_channels = oc;
  args.store.bias = bias;
  args.store.relu = true;
  return args;
}

void check_floats(const FloatStemKernel& kernel, int oc, int width, bool exact) {
  const std::vector<float> src = values(static_cast<std::size_t>(9) * pitch_of(width), 1, exact);
  const std::vector<float> weight = values(static_cast<std::size_t>(oc) * kStemTaps * kRow, 2, exact);
  const std::vector<float> bias = values(oc, 3, exact);
  const AlignedBuffer packed = pack_panels(weight, oc, kStemTaps * kRow, kernel.panel);
  const AlignedBuffer packed_bias = pack_bias(bias, kernel.panel);
  const int pitch = oc + 2;
  std::vector<float> dst(static_cast<std::size_t>(width) * pitch, kCanary);
  StemConvArgs args = stem_args(src.data(), pitch_of(width), packed.data(), width, oc,
                                reinterpret_cast<const std::int32_t*>(packed_bias.data()));
  args.store.floats = dst.data();
  args.store.floats_pixel_pitch = pitch;
  for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);
  for (int x = begin_of(width); x < width; ++x) {
    for (int o = 0; o < oc; ++o) {
      const Expected e = pooled(src, weight, bias[o], width, x, o, [](float v) { return static_cast<double>(v); });
      const double error = std::abs(dst[x * pitch + o] - std::max(e.value, 0.0));
      FA_CHECK_MESSAGE(error <= (exact ? 0.0 : bound(kStemTaps * kRow + 1, e.magnitude)), kernel.name);
    }
    for (int o = oc; o < pitch; ++o) FA_CHECK_MESSAGE(dst[x * pitch + o] == kCanary, kernel.name);
  }
  for (int i = 0; i < begin_of(width) * pitch; ++i) FA_CHECK_MESSAGE(dst[i] == kCanary, kernel.name);
}

void check_bfloat16(const Bfloat16StemKernel& kernel, int oc, int width) {
  const auto numbers = [](std::size_t count, std::uint32_t seed) {
    std::vector<std::int16_t> narrow;
    for (float v : values(count, seed, true)) narrow.push_back(to_bfloat16(v));
    return narrow;
  };
  const auto src = numbers(static_cast<std::size_t>(9) * pitch_of(width), 1);
  const auto weight = numbers(static_cast<std::size_t>(oc) * kStemTaps * kRow, 2);
  const std::vector<float> bias = values(oc, 3, true);
  const auto packed = pack_pairs(with_runs(weight, oc, kRow + 1), oc, kStemTaps * (kRow + 1), kernel.panel);
  const AlignedBuffer packed_bias = pack_bias(bias, kernel.panel);
  const int pitch = oc + 2;
  std::vector<std::int16_t> dst(static_cast<std::size_t>(width) * pitch, kIntegerCanary);
  StemConvArgs args = stem_args(src.data(), pitch_of(width), packed.data(), width, oc,
                                reinterpret_cast<const std::int32_t*>(packed_bias.data()));
  args.store.narrow = dst.data();
  args.store.narrow_pixel_pitch = pitch;
  for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);
  for (int x = begin_of(width); x < width; ++x) {
    for (int o = 0; o < oc; ++o) {
      const Expected e = pooled(src, weight, bias[o], width, x, o, [](std::int16_t v) { return from_bfloat16(v); });
      const std::int16_t expected = to_bfloat16(static_cast<float>(std::max(e.value, 0.0)));
      FA_CHECK_MESSAGE(dst[x * pitch + o] == expected, kernel.name);
    }
    for (int o = oc; o < pitch; ++o) FA_CHECK_MESSAGE(dst[x * pitch + o] == kIntegerCanary, kernel.name);
  }
  for (int i = 0; i < begin_of(width) * pitch; ++i) FA_CHECK_MESSAGE(dst[i] == kIntegerCanary, kernel.name);
}

void check_integers(const PairStemKernel& kernel, int oc, int width, bool to_bytes) {
  const auto src = integers<std::int16_t>(static_cast<std::size_t>(9) * pitch_of(width), 1, -32767, 32767);
  const auto weight = integers<std::int16_t>(static_cast<std::size_t>(oc) * kStemTaps * kRow, 2, -127, 127);
  const auto bias = padded(integers<std::int32_t>(oc, 3, -100000, 100000), kernel.panel);
  std::vector<float> multiplier(oc);
  for (int o = 0; o < oc; ++o) multiplier[o] = 1e-6f * static_cast<float>(1 + o % 7);
  const std::vector<float> packed_multiplier = padded(multiplier, kernel.panel);
  const auto packed = pack_pairs(with_runs(weight, oc, kRow + 1), oc, kStemTaps * (kRow + 1), kernel.panel);
  const int pitch = oc + 2;
  std::vector<std::int16_t> dst(static_cast<std::size_t>(width) * pitch, kIntegerCanary);
  std::vector<std::uint8_t> dst_bytes(dst.size(), kByteCanary);
  StemConvArgs args = stem_args(src.data(), pitch_of(width), packed.data(), width, oc, bias.data());
  args.store.multiplier = packed_multiplier.data();
  args.store.narrow = to_bytes ? nullptr : dst.data();
  args.store.bytes = to_bytes ? dst_bytes.data() : nullptr;
  args.store.narrow_pixel_pitch = pitch;
  for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);
  bool clamped = false, within = false;
  for (int x = begin_of(width); x < width; ++x) {
    for (int o = 0; o < oc; ++o) {
      const Expected e =
          pooled(src, weight, bias[o], width, x, o, [](std::int16_t v) { return static_cast<double>(v); });
      const float scaled = static_cast<float>(static_cast<std::int32_t>(e.value)) * multiplier[o];
      const int expected = static_cast<int>(std::min(std::nearbyint(std::max(scaled, 0.0f)), 255.0f));
      clamped |= expected == 255;
      within |= expected > 0 && expected < 255;
      const int got = to_bytes ? dst_bytes[x * pitch + o] : dst[x * pitch + o];
      FA_CHECK_MESSAGE(got == expected, kernel.name);
    }
    for (int o = oc; o < pitch; ++o) {
      FA_CHECK_MESSAGE(dst[x * pitch + o] == kIntegerCanary && dst_bytes[x * pitch + o] == kByteCanary, kernel.name);
    }
  }
  if (oc * width > 100) FA_CHECK(clamped && within);
}

// `own_biases`: of the four outputs under a pooled one, each has its own.
void check_bytes(const QuadStemKernel& kernel, int oc, int width, bool own_biases) {
  constexpr int kRun = kRow - 1, kSum = kStemTaps * kRun + 8;  // the last values of all rows follow, and a zero
  const int pitch_in = pitch_of(width) + 2;
  const auto src = integers<std::uint8_t>(static_cast<std::size_t>(9) * pitch_in, 1, 0, 255);
  const auto weight = integers<std::int16_t>(static_cast<std::size_t>(oc) * kStemTaps * kRow, 2, -127, 127);
  const auto bias = integers<std::int32_t>(static_cast<std::size_t>(4) * oc, 3, -100000, 100000);
  std::vector<float> multiplier(oc);
  for (int o = 0; o < oc; ++o) multiplier[o] = 1e-4f * static_cast<float>(1 + 3 * (o % 7));
  const std::vector<float> packed_multiplier = padded(multiplier, kernel.panel);
  std::vector<std::int16_t> sums(static_cast<std::size_t>(oc) * kSum);
  for (int i = 0; i < oc * kStemTaps; ++i) {
    std::int16_t* sum = &sums[i / kStemTaps * kSum];
    std::copy_n(&weight[static_cast<std::size_t>(i) * kRow], kRun, sum + i % kStemTaps * kRun);
    sum[kStemTaps * kRun + i % kStemTaps] = weight[i * kRow + kRun];
  }
  const auto packed = pack_groups<std::int8_t>(sums, oc, kSum, kernel.panel, 4);
  std::vector<std::uint8_t> last(2 * width * kStemLastPitch, 255);
  for (int x = 0; x < 2 * width; ++x) {
    for (int y = 0; y < 9; ++y) last[x * kStemLastPitch + y] = src[y * pitch_in + 2 * kRgb * x + kRun];
  }
  const int pitch = oc + 2;
  std::vector<std::uint8_t> dst(static_cast<std::size_t>(width) * pitch, kByteCanary);
  std::vector<std::int32_t> biases[4];
  for (int i = 0; i < 4; ++i) {
    const auto first = bias.begin() + (own_biases ? i : 0) * oc;
    biases[i] = padded(std::vector<std::int32_t>(first, first + oc), kernel.panel);
  }
  const std::vector<std::int32_t> zeros(biases[0].size(), 0);
  StemConvArgs args =
      stem_args(src.data(), pitch_in, packed.data(), width, oc, own_biases ? zeros.data() : biases[0].data());
  args.last = last.data();
  args.store.multiplier = packed_multiplier.data();
  args.store.bytes = dst.data();
  args.store.narrow_pixel_pitch = pitch;
  for (int i = 0; own_biases && i < 4; ++i) args.biases[i / 2][i % 2] = biases[i].data();
  for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);
  bool clamped = false, within = false;
  for (int x = begin_of(width); x < width; ++x) {
    for (int o = 0; o < oc; ++o) {
      std::int32_t most = std::numeric_limits<std::int32_t>::min();
      for (int i = 0; i < 4; ++i) {
        std::int32_t sum = 0;
        for (int k = 0; k < kStemTaps * kRow; ++k) {
          const int row = k / kRow + 2 * (i / 2), column = 2 * kRgb * (2 * x + i % 2) + k % kRow;
          sum += src[row * pitch_in + column] * weight[o * kStemTaps * kRow + k];
        }
        most = std::max(most, 2 * sum + biases[i][o]);
      }
      const float scaled = static_cast<float>(most) * multiplier[o];
      const float expected = std::min(std::nearbyint(std::max(scaled, 0.0f)), 255.0f);
      clamped |= expected == 255;
      within |= expected > 0 && expected < 255;
      FA_CHECK_MESSAGE(static_cast<float>(dst[x * pitch + o]) == expected, kernel.name);
    }
    for (int o = oc; o < pitch; ++o) FA_CHECK_MESSAGE(dst[x * pitch + o] == kByteCanary, kernel.name);
  }
  for (int i = 0; i < begin_of(width) * pitch; ++i) FA_CHECK_MESSAGE(dst[i] == kByteCanary, kernel.name);
  if (oc * width > 100) FA_CHECK(clamped && within);
}

template <class Kernel, class Check>
void at_all_sizes(const std::vector<Candidate<Kernel>>& candidates, const Check& check) {
  int cases = 0;
  for (const Kernel* kernel : runnable(candidates)) {
    for (int oc : {1, kernel->panel - 1, kernel->panel, kernel->panel + 3}) {
      for (int width = 1; width <= 8; ++width, ++cases) check(*kernel, oc, width);
    }
  }
  FA_CHECK(cases > 0);
}

}  // namespace

FA_TEST(stem_of_floats) {
  at_all_sizes(kernel_lists().FloatStem, [](const FloatStemKernel& kernel, int oc, int width) {
    check_floats(kernel, oc, width, true);
    check_floats(kernel, oc, width, false);
  });
}

FA_TEST(stem_of_bfloat16) { at_all_sizes(kernel_lists().Bfloat16Stem, check_bfloat16); }

FA_TEST(stem_of_bytes) {
  at_all_sizes(kernel_lists().QuadStem, [](const QuadStemKernel& kernel, int oc, int width) {
    check_bytes(kernel, oc, width, false);
    check_bytes(kernel, oc, width, true);
  });
}

FA_TEST(stem_of_integers) {
  at_all_sizes(kernel_lists().PairStem, [](const PairStemKernel& kernel, int oc, int width) {
    check_integers(kernel, oc, width, false);
    // Levels whose maps are of bytes store such; vectors of AVX2 cannot.
    if (kernel.panel != 16) check_integers(kernel, oc, width, true);
  });
}
