// Floats that become integers between phases: the kernels, the phase's checks, its place in memory, and plans that mix
// formats.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "cpu/cpu_features.h"
#include "cpu/dispatch.h"
#include "engine.h"
#include "kernels.h"
#include "plan/memory_planner.h"
#include "plans.h"

using namespace faceattr;
using namespace faceattr::cpu;

namespace {

constexpr std::int16_t kCanary = 12345;

// A 32 x 32 network in which floats become integers twice: beside a map that is read on as floats (a shortcut's), with
// a border; and alone, negative ones among them.
Plan mixed_plan(int width) {
  Plan plan;
  plan.pixels = 32;
  for (float& scale : plan.scale) scale = 64.0f;
  const auto integers = [](int size, int channels, int low) {
    return TensorShape{size, size, channels, Format::kInteger, test::random_values(channels, 99, 0.1f), low};
  };
  plan.tensors = {
      {8, 8, width},             // 0: stem
      integers(8, width, 0),     // 1: the same in integers
      {8, 8, width},             // 2: block of integers, in place of 0
      {8, 8, width},             // 3: block of floats
      integers(8, width, -128),  // 4: the same in integers
      integers(4, width, 0),     // 5: strided output
      {1, 1, width},             // 6: means of 5
      {1, 1, 3},                 // 7: head
  };
  std::uint32_t seed = 1;
  const auto weights = [&](int oc, int k) {
    return test::random_values(static_cast<std::size_t>(oc) * k, seed++, 1.0f / std::sqrt(static_cast<float>(k)));
  };
  const auto quantized = [&](int dst, Segment segment, bool relu, int residual) {
    const int k = segment.kernel * segment.kernel * width;
    QuantizedConvPhase phase;
    phase.dst = dst;
    phase.segments = {segment};
    for (float value : weights(width, k)) phase.weight.push_back(static_cast<std::int8_t>(1000 * value));
    phase.bias.assign(width, 100);
    phase.multiplier.assign(width, 1e-4f);
    phase.relu = relu;
    phase.residual = residual;
    plan.phases.push_back(std::move(phase));
  };
  plan.phases.push_back(StemPhase{0, weights(width, 147), weights(width, 1)});
  plan.phases.push_back(QuantizePhase{1, 0, std::vector<float>(width, 40.0f)});
  quantized(2, {1, 0, width, 3, 1}, false, 0);
  plan.phases.push_back(
      SegmentedConvPhase{3, {{2, 0, width, 1, 1}}, weights(width, width), weights(width, 1), false, -1});
  plan.phases.push_back(QuantizePhase{4, 3, std::vector<float>(width, 50.0f)});
  quantized(5, {4, 0, width, 3, 2}, true, -1);
  plan.phases.push_back(ShiftedMeansPhase{6, 5, 1, 1, 0, width});
  plan.phases.push_back(LinearHeadPhase{7, {{6, width}}, weights(3, width), weights(3, 1)});
  plan.outputs = {{7, 0, 3}, {4, 0, width}};
  return plan;
}

}  // namespace

FA_TEST(quantize_kernels) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const IsaLevel& level : test::runnable_levels()) {
    const QuantizeKernel& kernel = best(kernel_lists().Quantize, level.features);
    const bool to_bytes = test::stores_bytes(level);
    for (int channels : {1, 3, 4, 7, 8, 9, 15, 16, 17, 40}) {
      for (float low : {0.0f, -128.0f}) {
        const int width = 5, src_pitch = channels + 2, dst_pitch = channels + 3;
        std::vector<float> src = test::random_values(static_cast<std::size_t>(width) * src_pitch, 5, 300.0f);
        std::vector<float> inverse = test::random_values(channels, 6, 1.0f);
        for (int c = 0; c < channels; ++c) {  // ties at every other integer, and what is out of range
          if (c % 2 == 0) inverse[c] = 0.5f;
          if (c % 2 == 0) src[c] = static_cast<float>(2 * c + 1);
        }
        src[src_pitch] = kInfinity;
        src[2 * src_pitch] = -kInfinity;
        src[3 * src_pitch] = std::numeric_limits<float>::quiet_NaN();
        src[4 * src_pitch] = std::numeric_limits<float>::max();
        std::vector<std::int16_t> dst(static_cast<std::size_t>(width) * dst_pitch, kCanary);
        std::vector<std::uint8_t> bytes(dst.size(), test::kByteCanary);
        QuantizeArgs args;
        args.src = src.data();
        args.src_pixel_pitch = src_pitch;
        args.width = width;
        args.channels = channels;
        args.inverse = inverse.data();
        args.low = low;
        if (to_bytes) {
          args.bytes = bytes.data();
        } else {
          args.dst = dst.data();
        }
        args.dst_pixel_pitch = dst_pitch;
        kernel.run(args);
        for (int x = 0; x < width; ++x) {
          for (int c = 0; c < channels; ++c) {
            volatile float product = src[x * src_pitch + c] * inverse[c];
            const float value = product;
            const float expected = std::isnan(value) ? low : std::nearbyint(std::clamp(value, low, low + 255.0f));
            const int at = x * dst_pitch + c;
            const float got = to_bytes ? static_cast<float>(bytes[at]) + low : static_cast<float>(dst[at]);
            FA_CHECK_MESSAGE(got == expected, kernel.name);
          }
          for (int at = x * dst_pitch + channels; at < (x + 1) * dst_pitch; ++at) {
            FA_CHECK(bytes[at] == test::kByteCanary && dst[at] == kCanary);
          }
        }
        FA_CHECK(std::count(dst.begin(), dst.end(), kCanary) == width * (to_bytes ? dst_pitch : dst_pitch - channels));
      }
    }
  }
  FA_CHECK(kernel_lists().Quantize.back().features == 0);
}

FA_TEST(every_flaw_of_a_conversion_is_found) {
  const auto quantize = [](Plan& p) -> QuantizePhase& { return std::get<QuantizePhase>(p.phases[1]); };
  const std::vector<std::function<void(Plan&)>> flaws = {
      [&](Plan& p) { quantize(p).src = 2; },  // not written yet
      [&](Plan& p) { quantize(p).src = 99; },
      [&](Plan& p) { quantize(p).dst = 3; },  // floats
      [&](Plan& p) { quantize(p).dst = 5; },  // another size
      [&](Plan& p) { quantize(p).inverse.pop_back(); },
      [](Plan& p) { std::get<QuantizePhase>(p.phases[4]).src = 1; },  // integers already
      [](Plan& p) { std::get<QuantizePhase>(p.phases[4]).dst = 1; },  // written twice
  };
  FA_CHECK(check(mixed_plan(6)).size() == 8);
  for (const auto& flaw : flaws) {
    Plan plan = mixed_plan(6);
    flaw(plan);
    FA_CHECK_THROWS(std::invalid_argument, check(plan));
  }
}

FA_TEST(converted_maps_have_a_place_of_their_own) {
  for (int width : {3, 8, 17}) {
    const Plan plan = mixed_plan(width);
    const MemoryPlan memory = plan_memory(plan, check(plan));
    const int borders[] = {0, 1, 0, 0, 1, 0};
    for (int t = 0; t < 6; ++t) FA_CHECK(memory.maps[t].border == borders[t]);
    const auto end = [&](int t) {
      const MapPlacement& map = memory.maps[t];
      const std::size_t values = static_cast<std::size_t>(plan.tensors[t].height + 2 * map.border) * map.row_pitch;
      return map.offset + (plan.tensors[t].narrow() ? values / kNarrowPerFloat : values);
    };
    for (const auto& [a, b] : {std::pair{0, 1}, {1, 2}, {3, 4}, {4, 5}}) {
      FA_CHECK(memory.maps[a].offset >= end(b) || memory.maps[b].offset >= end(a));
    }
    FA_CHECK(memory.maps[2].offset == memory.maps[0].offset);  // it is read last where it is added
  }
}

FA_TEST(plans_of_two_formats_give_the_same_bits) {
  const std::int64_t images = 7, pixels = 3 * 32 * 32;
  std::vector<std::uint8_t> u8(images * pixels);
  for (std::size_t i = 0; i < u8.size(); ++i) u8[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
  for (const IsaLevel& level : test::runnable_levels()) {
    for (int width : {6, 17, 40}) {
      const auto run = [&](int threads, std::int64_t first, std::int64_t count) {
        const Engine engine(mixed_plan(width), level.name, threads);
        std::vector<float> head(count * 3, -1.0f), map(count * 64 * width, -1.0f);
        float* outputs[] = {head.data(), map.data()};
        engine.run({u8.data() + first * pixels, nullptr}, count, outputs);
        head.insert(head.end(), map.begin(), map.end());
        return head;
      };
      const std::vector<float> expected = run(1, 0, images);
      for (int threads : {2, 3}) FA_CHECK_MESSAGE(run(threads, 0, images) == expected, level.name);
      const std::vector<float> last = run(2, images - 1, 1);
      FA_CHECK(std::equal(last.begin(), last.begin() + 3, expected.begin() + 3 * (images - 1)));
      const auto [low, high] = std::minmax_element(expected.begin() + 3 * images, expected.end());
      FA_CHECK(*high - *low > 1);  // it says something
    }
  }
}

// What a 3x3 reads beyond a map that may be negative are zeros, however the map stores them: of a map of -1, each
// output counts the taps inside.
FA_TEST(signed_maps_have_borders_of_zeros) {
  const int channels = 5;
  for (int side : {8, 9}) {
    const auto integers = [&](int size) {
      return TensorShape{size, size, channels, Format::kInteger, std::vector<float>(channels, 1.0f), -128};
    };
    Plan plan;
    plan.pixels = 4 * side;
    plan.tensors = {integers(side), integers(side), integers(side), integers((side + 1) / 2)};
    plan.tensors[0].low = 0;
    const std::vector<float> ones(channels, 1.0f);
    plan.phases.push_back(QuantizedStemPhase{0, std::vector<std::int8_t>(channels * 147, 1),
                                             std::vector<std::int32_t>(channels, 50), ones});
    const auto conv = [&](int dst, const Segment& segment, std::int8_t weight, std::int32_t bias) {
      QuantizedConvPhase phase;
      phase.dst = dst;
      phase.segments = {segment};
      phase.weight.assign(static_cast<std::size_t>(channels) * channels * segment.kernel * segment.kernel, weight);
      phase.bias.assign(channels, bias);
      phase.multiplier = ones;
      plan.phases.push_back(std::move(phase));
    };
    conv(1, {0, 0, channels, 1, 1}, 0, -1);
    conv(2, {1, 0, channels, 3, 1}, 2, 0);
    conv(3, {1, 0, channels, 3, 2}, -2, 7);
    plan.outputs = {{2, 0, channels}, {3, 0, channels}};

    const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(3) * plan.pixels * plan.pixels, 200);
    const auto taps = [&](int at) { return 3 - (at == 0 ? 1 : 0) - (at == side - 1 ? 1 : 0); };
    for (const IsaLevel& level : test::runnable_levels()) {
      for (const Plan& form : {plan, test::transformed(plan, 2), test::transformed(plan, 4)}) {
        for (int threads : {1, 3}) {
          const Engine engine(form, level.name, threads);
          const int half = (side + 1) / 2;
          std::vector<float> whole(side * side * channels), strided(half * half * channels);
          float* outputs[] = {whole.data(), strided.data()};
          for (int repeat = 0; repeat < 2; ++repeat) engine.run({pixels.data(), nullptr}, 1, outputs);
          for (int i = 0; i < side * side * channels; ++i) {
            const int y = i / channels / side, x = i / channels % side;
            FA_CHECK_MESSAGE(whole[i] == static_cast<float>(-2 * channels * taps(y) * taps(x)), level.name);
          }
          for (int i = 0; i < half * half * channels; ++i) {
            const int y = i / channels / half, x = i / channels % half;
            const int sum = 2 * channels * taps(2 * y) * taps(2 * x) + 7;
            FA_CHECK_MESSAGE(strided[i] == static_cast<float>(sum), level.name);
          }
        }
      }
    }
  }
}
