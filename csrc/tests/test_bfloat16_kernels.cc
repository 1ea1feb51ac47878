// Every bfloat16 kernel that this machine can run against sums in double: bit for bit on small integers, whose products
// and sums are exact in any order, and within a derived bound on random values.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "check.h"
#include "kernels.h"
#include "plans.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

namespace {

struct Case {
  int oc, k, positions;
  bool relu, residual, narrow, exact;
};

// `exact`: integers of -4 … 4.
std::vector<std::int16_t> values(std::size_t count, std::uint32_t seed, bool exact) {
  const std::vector<float> random = random_values(count, seed);
  std::vector<std::int16_t> result;
  for (float v : random) result.push_back(to_bfloat16(exact ? std::round(4 * v) : v));
  return result;
}

void check_conv(const Bfloat16ConvKernel& kernel, const Case& c) {
  // Two runs per position, as of two taps, and a gap between positions.
  const int half = c.k / 2, pitch = c.k + 4;
  const auto src = values(static_cast<std::size_t>(c.positions) * pitch, 1, c.exact);
  const auto weight = values(static_cast<std::size_t>(c.oc) * c.k, 2, c.exact);
  const std::vector<float> random_bias = random_values(c.oc, 3);
  std::vector<std::int32_t> bias(c.oc);
  std::vector<float> exact_bias(c.oc);
  for (int o = 0; o < c.oc; ++o) {
    exact_bias[o] = c.exact ? std::round(4 * random_bias[o]) : random_bias[o];
    std::memcpy(&bias[o], &exact_bias[o], sizeof(float));
  }
  bias = padded(bias, kernel.panel);
  const std::vector<std::int16_t> packed = pack_pairs(weight, c.oc, c.k, kernel.panel);
  const std::int64_t runs[] = {half + 4, 0};  // the second half first
  ConvSegment segment;
  segment.column_step = pitch;
  segment.runs = runs;
  segment.run_count = 2;
  segment.run_length = half;
  NarrowConvArgs args;
  args.base = src.data();
  args.segments = &segment;
  args.segment_count = 1;
  args.weights = packed.data();
  args.k = c.k;
  args.out_channels = c.oc;
  args.out_width = c.positions;
  NarrowStore& to = args.store;
  to.bias = bias.data();
  to.relu = c.relu;
  const int out_pitch = c.oc + 3;
  std::vector<float> floats(static_cast<std::size_t>(c.positions) * out_pitch, kCanary);
  std::vector<float> residual = random_values(floats.size(), 4);
  if (c.exact) {
    for (float& v : residual) v = std::round(4 * v);
  }
  std::vector<std::int16_t> narrow(floats.size(), kIntegerCanary);
  to.floats = floats.data();
  to.floats_pixel_pitch = out_pitch;
  if (c.residual) {
    to.residual = residual.data();
    to.residual_pixel_pitch = out_pitch;
  }
  if (c.narrow) {
    to.narrow = narrow.data();
    to.narrow_pixel_pitch = out_pitch;
  }
  for (int panel = 0; panel < panel_count(c.oc, kernel.panel); ++panel) kernel.run(args, 0, c.positions, panel);

  for (int p = 0; p < c.positions; ++p) {
    for (int o = 0; o < c.oc; ++o) {
      double sum = exact_bias[o], magnitude = std::abs(sum);
      for (int i = 0; i < c.k; ++i) {
        const int place = p * pitch + (i < half ? half + 4 + i : i - half);
        const double term = static_cast<double>(from_bfloat16(src[place])) * from_bfloat16(weight[o * c.k + i]);
        sum += term;
        magnitude += std::abs(term);
      }
      if (c.residual) sum += residual[p * out_pitch + o];
      if (c.relu) sum = std::max(sum, 0.0);
      const float got = floats[p * out_pitch + o];
      if (c.exact) {
        FA_CHECK_MESSAGE(got == sum, kernel.name);
      } else {
        const double bound = (c.k + 4) * std::numeric_limits<float>::epsilon() / 2 * (magnitude + std::abs(sum));
        FA_CHECK_MESSAGE(std::abs(got - sum) <= bound, kernel.name);
      }
      if (c.narrow) FA_CHECK_MESSAGE(narrow[p * out_pitch + o] == to_bfloat16(got), kernel.name);
    }
    for (int o = c.oc; o < out_pitch; ++o) {
      FA_CHECK_MESSAGE(floats[p * out_pitch + o] == kCanary, kernel.name);
      FA_CHECK_MESSAGE(narrow[p * out_pitch + o] == kIntegerCanary, kernel.name);
    }
  }
}

}  // namespace

FA_TEST(convolutions_of_bfloat16) {
  int cases = 0;
  for (const Bfloat16ConvKernel* kernel : runnable(kernel_lists().Bfloat16Conv)) {
    for (int oc : {1, kernel->panel - 1, kernel->panel, 2 * kernel->panel + 3}) {
      for (int positions : {1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 29}) {
        for (int k : {4, 72}) {
          const bool odd = positions % 2 == 1;
          check_conv(*kernel, {oc, k, positions, odd, !odd, k == 72, true});
          check_conv(*kernel, {oc, k, positions, !odd, odd, true, false});
          cases += 2;
        }
      }
    }
  }
  FA_CHECK(cases > 0);
}

FA_TEST(rounding_to_bfloat16) {
  const auto bits = [](std::uint32_t b) {
    float v;
    std::memcpy(&v, &b, sizeof v);
    return static_cast<std::uint16_t>(to_bfloat16(v));
  };
  FA_CHECK(bits(0x3f800000) == 0x3f80);  // 1
  FA_CHECK(bits(0x3f808000) == 0x3f80);  // a tie: to even, down
  FA_CHECK(bits(0x3f818000) == 0x3f82);  // a tie: to even, up
  FA_CHECK(bits(0x3f808001) == 0x3f81);
  FA_CHECK(bits(0xbf807fff) == 0xbf80);
  FA_CHECK(bits(0x7f7fffff) == 0x7f80);  // beyond the largest: infinity
  FA_CHECK(bits(0x7f800000) == 0x7f80);
  FA_CHECK((bits(0x7f800001) & 0x7fff) > 0x7f80);  // a NaN stays one
  for (std::uint32_t b = 0; b < 0x10000; ++b) {
    const float value = from_bfloat16(static_cast<std::int16_t>(b));
    if (!std::isnan(value)) FA_CHECK(static_cast<std::uint16_t>(to_bfloat16(value)) == b);
  }
}
