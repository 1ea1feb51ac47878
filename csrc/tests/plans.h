// Small plans for tests, with every kind of phase.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "plan/phase.h"
#include "winograd_reference.h"

namespace faceattr::test {

inline std::vector<std::int8_t> random_bytes(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> uniform(-127, 127);
  std::vector<std::int8_t> values(count);
  for (std::int8_t& value : values) value = static_cast<std::int8_t>(uniform(generator));
  return values;
}

inline std::vector<float> random_values(std::size_t count, std::uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(generator);
  return values;
}

// A 32 x 32 network with a residual block, a strided block with two segments, channel slices and two heads; `width` is
// the number of channels of the stream.
inline Plan small_plan(int width) {
  const int mid = width / 2 + 1;
  Plan plan;
  plan.pixels = 32;
  for (int c = 0; c < 3; ++c) {
    plan.mean[c] = 120.0f + c;
    plan.scale[c] = 60.0f + c;
  }
  plan.tensors = {
      {8, 8, width},    // 0: stem
      {8, 8, mid},      // 1: block 1, middle
      {8, 8, width},    // 2: block 1, output in place of 0
      {8, 8, 2 * mid},  // 3: two fused middles
      {4, 4, width},    // 4: strided output
      {1, 1, 9 * mid},  // 5: shifted means of half of 3
      {1, 1, width},    // 6: plain means of 4
      {1, 1, 10},       // 7: first head
      {1, 1, 3},        // 8: second head, on the first
  };
  std::uint32_t seed = 1;
  const auto weights = [&](int oc, int k) { return random_values(static_cast<std::size_t>(oc) * k, seed++, 0.5f); };
  plan.phases.push_back(StemPhase{0, weights(width, 147), weights(width, 1)});
  plan.phases.push_back(SegmentedConvPhase{1, {{0, 0, width, 1, 1}}, weights(mid, width), weights(mid, 1), true, -1});
  plan.phases.push_back(
      SegmentedConvPhase{2, {{1, 0, mid, 3, 1}}, weights(width, 9 * mid), weights(width, 1), false, 0});
  plan.phases.push_back(
      SegmentedConvPhase{3, {{2, 0, width, 1, 1}}, weights(2 * mid, width), weights(2 * mid, 1), true, -1});
  plan.phases.push_back(SegmentedConvPhase{
      4, {{3, mid, mid, 3, 2}, {2, 0, width, 1, 2}}, weights(width, 9 * mid + width), weights(width, 1), false, -1});
  plan.phases.push_back(ShiftedMeansPhase{5, 3, 3, 2, mid, mid});
  plan.phases.push_back(ShiftedMeansPhase{6, 4, 1, 1, 0, width});
  plan.phases.push_back(LinearHeadPhase{7, {{5, 9 * mid}, {6, width}}, weights(10, 9 * mid + width), weights(10, 1)});
  plan.phases.push_back(LinearHeadPhase{8, {{7, 6}}, weights(3, 6), weights(3, 1)});
  plan.outputs = {{7, 0, 10}, {8, 1, 2}, {4, 0, width}};
  return plan;
}

// Adds a stem, and convolutions whose 3x3 segments run directly, or by tiles: of side `tile` at stride 1, of 4 at
// stride 2 and in the stem; 0: directly. Weights are the same in either case.
struct ConvBuilder {
  Plan& plan;
  int tile;
  std::uint32_t seed = 1;

  std::vector<float> weights(int oc, int k) {
    return random_values(static_cast<std::size_t>(oc) * k, seed++, 1.5f / std::sqrt(static_cast<float>(k)));
  }

  void add_stem() {
    const int oc = plan.tensors[0].channels;
    StemPhase stem = {0, weights(oc, 147), weights(oc, 1)};
    if (tile == 0) return plan.phases.push_back(std::move(stem));
    plan.phases.push_back(WinogradStemPhase{0, transform_stem(stem.weight, oc), std::move(stem.bias)});
  }

  // `direct`: what runs directly anyway, without weights.
  void add(SegmentedConvPhase direct, std::vector<Segment> segments) {
    const bool winograd = tile > 0;
    const int oc = plan.tensors[direct.dst].channels, stride = segments[0].stride;
    int k = 0, direct_k = 0;
    for (const Segment& s : segments) k += s.count;
    for (const Segment& s : direct.segments) direct_k += s.kernel * s.kernel * s.count;
    const std::vector<float> taps = weights(oc, 9 * k), direct_weight = weights(oc, std::max(direct_k, 1));
    direct.bias = weights(oc, 1);
    for (const Segment& s : segments) {
      if (!winograd) direct.segments.push_back(s);
      if (winograd && stride == 2) direct.segments.push_back({s.src, s.start, s.count, 1, 2});
    }
    for (int o = 0; o < oc; ++o) {  // [oc][direct, then segments: tap, channel]
      const float* row = direct_weight.data() + static_cast<std::size_t>(o) * direct_k;
      direct.weight.insert(direct.weight.end(), row, row + direct_k);
      int first = 0;
      for (const Segment& s : segments) {
        for (int tap = 0; tap < 9; ++tap) {
          if (winograd && (stride == 1 || tap != 4)) continue;  // the centre tap alone stays, at stride 2
          for (int c = first; c < first + s.count; ++c)
            direct.weight.push_back(taps[(static_cast<std::size_t>(o) * k + c) * 9 + tap]);
        }
        first += s.count;
      }
    }
    if (winograd) {
      const int side = stride == 1 ? tile : 4;
      std::vector<float> points = transform_weights(taps, oc, k, stride, side);
      plan.phases.push_back(WinogradConvPhase{std::move(direct), std::move(segments), std::move(points), side});
    } else {
      plan.phases.push_back(std::move(direct));
    }
  }
};

// A network whose 3x3 convolutions run as ConvBuilder says. Some are small enough to be transformed whole, some go
// strip by strip. 1x1 convolutions read the same sources, so that every combination of direct part, shortcut and bias
// occurs, and sizes that tiles do not divide.
inline Plan winograd_plan(int width, int tile) {
  const int mid = width / 2 + 1;
  Plan plan;
  plan.pixels = 4 * 30;
  plan.scale[0] = plan.scale[1] = plan.scale[2] = 200.0f;
  plan.tensors = {{30, 30, width}, {30, 30, mid}, {30, 30, width}, {30, 30, width}, {15, 15, width},
                  {15, 15, width}, {8, 8, width}, {1, 1, width},   {1, 1, 5}};
  ConvBuilder build{plan, tile};
  const auto weights = [&](int oc, int k) { return build.weights(oc, k); };
  build.add_stem();
  plan.phases.push_back(SegmentedConvPhase{1, {{0, 0, width, 1, 1}}, weights(mid, width), weights(mid, 1), true, -1});
  build.add({2, {}, {}, {}, false, 0}, {{1, 0, mid, 3, 1}});  // shortcut
  build.add({3, {{0, 0, width, 1, 1}}, {}, {}, true, -1},
            {{1, 1, mid - 1, 3, 1}, {2, 0, 3, 3, 1}});  // slices, a 1x1, ReLU
  build.add({4, {{2, 0, width, 1, 2}}, {}, {}, true, -1}, {{3, 0, width, 3, 2}, {2, 1, width - 1, 3, 2}});
  build.add({5, {}, {}, {}, false, 4}, {{4, 0, width, 3, 1}});
  build.add({6, {}, {}, {}, false, -1}, {{5, 0, width, 3, 2}});
  plan.phases.push_back(ShiftedMeansPhase{7, 6, 1, 1, 0, width});
  plan.phases.push_back(LinearHeadPhase{8, {{7, width}}, weights(5, width), weights(5, 1)});
  plan.outputs = {{8, 0, 5}, {6, 0, width}, {5, 0, width}, {3, 0, width}};
  return plan;
}

// The same kinds of convolution of bfloat16: of maps of it alone, and of copies beside a stream of floats.
inline Plan bfloat16_plan(int width, int tile) {
  const int mid = width / 2 + 1;
  Plan plan;
  plan.pixels = 4 * 30;
  for (int c = 0; c < 3; ++c) {
    plan.mean[c] = 127.5f;
    plan.scale[c] = 64.0f;
  }
  const auto narrow = [](int side, int channels) { return TensorShape{side, side, channels, Format::kBfloat16}; };
  plan.tensors = {
      narrow(30, width),  // 0: stem
      narrow(30, mid),    // 1: block 1, middle
      {30, 30, width},    // 2: block 1, output
      narrow(30, width),  // 3: the same in bfloat16
      {30, 30, width},    // 4: block 2, output in place of 2
      narrow(30, width),  // 5: the same in bfloat16
      narrow(30, width),  // 6
      narrow(15, width),  // 7: strided output
      {15, 15, width},    // 8
      narrow(8, width),   // 9: strided output
      {1, 1, width},      // 10: means of 9
      {1, 1, 5},          // 11: head
  };
  ConvBuilder build{plan, tile};
  build.add_stem();
  plan.phases.push_back(
      SegmentedConvPhase{1, {{0, 0, width, 1, 1}}, build.weights(mid, width), build.weights(mid, 1), true, -1});
  build.add({2, {{0, 0, width, 1, 1}}, {}, {}, false, -1, 3}, {{1, 0, mid, 3, 1}});
  build.add({4, {}, {}, {}, false, 2, 5}, {{1, 0, mid, 3, 1}});                                       // shortcut
  build.add({6, {{5, 0, width, 1, 1}}, {}, {}, true, -1}, {{1, 1, mid - 1, 3, 1}, {5, 0, 3, 3, 1}});  // slices, ReLU
  build.add({7, {{5, 0, width, 1, 2}}, {}, {}, true, -1}, {{6, 0, width, 3, 2}, {5, 1, width - 1, 3, 2}});
  build.add({8, {}, {}, {}, false, -1}, {{7, 0, width, 3, 1}});
  build.add({9, {}, {}, {}, false, -1}, {{7, 0, width, 3, 2}});
  plan.phases.push_back(ShiftedMeansPhase{10, 9, 1, 1, 0, width});
  plan.phases.push_back(LinearHeadPhase{11, {{10, width}}, build.weights(5, width), build.weights(5, 1)});
  plan.outputs = {{11, 0, 5}, {9, 0, width}, {8, 0, width}, {4, 0, width}, {6, 1, width - 1}};
  return plan;
}

// small_plan in integers: a stream of floats with integers beside it, an output in place of its input, both kinds of
// map as outputs and under means.
inline Plan quantized_plan(int width, int side = 8) {
  const int mid = width / 2 + 1;
  Plan plan;
  plan.pixels = 4 * side;
  for (int c = 0; c < 3; ++c) {
    plan.mean[c] = 127.5f;
    plan.scale[c] = 64.0f;
  }
  const auto integers = [](int size, int channels, int low) {
    return TensorShape{size, size, channels, Format::kInteger, random_values(channels, 99, 0.1f), low};
  };
  plan.tensors = {
      integers(side, width, 0),               // 0: stem
      integers(side, mid, 0),                 // 1: block 1, middle
      {side, side, width},                    // 2: block 1, output
      integers(side, width, -128),            // 3: the same in integers
      integers(side, 2 * mid, 0),             // 4: two fused middles
      {side, side, width},                    // 5: block 2, output in place of 2
      integers(side, width, -128),            // 6: the same in integers
      integers((side + 1) / 2, width, -128),  // 7: strided output
      {1, 1, 9 * mid},                        // 8: shifted means of half of 4
      {1, 1, width},                          // 9: plain means of 5
      {1, 1, width},                          // 10: plain means of 7
      {1, 1, 10},                             // 11: head
  };
  std::uint32_t seed = 1;
  const auto conv = [&](int dst, std::vector<Segment> segments, bool relu, int residual = -1, int copy = -1) {
    int k = 0;
    for (const Segment& s : segments) k += s.kernel * s.kernel * s.count;
    const int oc = plan.tensors[dst].channels;
    const float unit = 1.5f / (73 * std::sqrt(static_cast<float>(k)));  // 73: of a weight; keeps magnitudes
    QuantizedConvPhase phase = {dst,
                                std::move(segments),
                                random_bytes(static_cast<std::size_t>(oc) * k, seed++),
                                {},
                                std::vector<float>(oc, unit),
                                relu,
                                residual,
                                copy,
                                {}};
    for (int o = 0; o < oc; ++o) phase.bias.push_back(1000 * (o % 7 - 3));
    if (copy >= 0) phase.inverse.assign(oc, 0.75f);
    plan.phases.push_back(std::move(phase));
  };
  plan.phases.push_back(QuantizedStemPhase{0, random_bytes(static_cast<std::size_t>(width) * 147, 77),
                                           std::vector<std::int32_t>(width, 500), std::vector<float>(width, 4e-4f)});
  conv(1, {{0, 0, width, 1, 1}}, true);
  conv(2, {{1, 0, mid, 3, 1}, {0, 0, width, 1, 1}}, false, -1, 3);
  conv(4, {{3, 0, width, 1, 1}}, true);
  conv(5, {{4, 0, mid, 3, 1}}, false, 2, 6);
  conv(7, {{4, mid, mid, 3, 2}, {6, 0, width, 1, 2}}, false);
  const auto weights = [&](int oc, int k) { return random_values(static_cast<std::size_t>(oc) * k, seed++, 0.5f); };
  plan.phases.push_back(ShiftedMeansPhase{8, 4, 3, 2, mid, mid});
  plan.phases.push_back(ShiftedMeansPhase{9, 5, 1, 1, 0, width});
  plan.phases.push_back(ShiftedMeansPhase{10, 7, 1, 1, 0, width});
  const int k = 9 * mid + 2 * width;
  plan.phases.push_back(LinearHeadPhase{11, {{8, 9 * mid}, {9, width}, {10, width}}, weights(10, k), weights(10, 1)});
  plan.outputs = {{11, 0, 10}, {5, 1, width - 1}, {7, 0, width}, {4, 1, mid}};
  return plan;
}

// The same plan with stride-1 3x3 segments of integers by Winograd's F(tile x tile, 3x3): G w Gᵀ of their weights.
inline Plan transformed(Plan plan, int tile) {
  const std::vector<std::vector<int>> g =
      tile == 2
          ? std::vector<std::vector<int>>{{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}}
          : std::vector<std::vector<int>>{{6, 0, 0}, {-4, -4, -4}, {-4, 4, -4}, {1, 2, 4}, {1, -2, 4}, {0, 0, 12}};
  const int side = tile + 2, points = side * side;
  for (Phase& any : plan.phases) {
    auto* phase = std::get_if<QuantizedConvPhase>(&any);
    if (phase == nullptr) continue;
    const int oc = static_cast<int>(phase->bias.size()), k = static_cast<int>(phase->weight.size()) / oc;
    std::vector<Segment> direct;
    std::vector<std::vector<std::int8_t>> kept(oc);
    int channels = 0;
    for (const Segment& s : phase->segments) channels += s.kernel == 3 && s.stride == 1 ? s.count : 0;
    phase->transformed_weight.resize(static_cast<std::size_t>(points) * oc * channels);
    phase->tile = tile;
    int from = 0, to = 0;
    for (const Segment& s : phase->segments) {
      const int size = s.kernel * s.kernel * s.count;
      const bool fits = s.kernel == 3 && s.stride == 1;
      for (int o = 0; o < oc; ++o) {
        const std::int8_t* w = phase->weight.data() + static_cast<std::size_t>(o) * k + from;
        if (!fits) kept[o].insert(kept[o].end(), w, w + size);
        for (int c = 0; fits && c < s.count; ++c) {
          for (int point = 0; point < points; ++point) {
            int sum = 0;
            for (int tap = 0; tap < 9; ++tap)
              sum += g[point / side][tap / 3] * g[point % side][tap % 3] * w[tap * s.count + c];
            const std::size_t place = (static_cast<std::size_t>(point) * oc + o) * channels + to + c;
            phase->transformed_weight[place] = static_cast<std::int16_t>(sum);
          }
        }
      }
      if (fits) to += s.count;
      (fits ? phase->transformed : direct).push_back(s);
      from += size;
    }
    phase->segments = direct;
    phase->weight.clear();
    for (const auto& row : kept) phase->weight.insert(phase->weight.end(), row.begin(), row.end());
  }
  return plan;
}

}  // namespace faceattr::test
