#include <functional>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "plan/memory_planner.h"
#include "plans.h"

using namespace faceattr;

namespace {

std::size_t end_of(const Plan& plan, const MemoryPlan& memory, int t) {
  const TensorShape& shape = plan.tensors[t];
  const MapPlacement& map = memory.maps[t];
  const std::size_t values = static_cast<std::size_t>(shape.height + 2 * map.border) * map.row_pitch;
  return map.offset + (shape.narrow() ? values / kNarrowPerFloat : values);
}

// The same head with weights of 16 bits.
LinearHeadPhase& halve(LinearHeadPhase& phase) {
  phase.half_weight.assign(phase.weight.size(), 0x3c00);
  phase.scale.assign(phase.bias.size(), 0.5f);
  phase.weight.clear();
  return phase;
}

}  // namespace

FA_TEST(a_good_plan_passes) {
  const auto kinds = check(test::small_plan(6));
  FA_CHECK(kinds[0] == TensorKind::kMap && kinds[5] == TensorKind::kVector);
  Plan halved = test::small_plan(6);
  halve(std::get<LinearHeadPhase>(halved.phases[7]));
  check(halved);
}

namespace {

// Each flaw alone must be found in what is a good plan without it, by a message that says where.
void check_flaws(const Plan& good, const std::vector<std::function<void(Plan&)>>& flaws) {
  check(good);
  for (std::size_t i = 0; i < flaws.size(); ++i) {
    Plan plan = good;
    flaws[i](plan);
    bool found = false;
    try {
      check(plan);
    } catch (const std::invalid_argument& error) {
      found = std::string(error.what()).find("plan, phase") == 0;
    }
    FA_CHECK_MESSAGE(found, "flaw " + std::to_string(i));
  }
}

}  // namespace

FA_TEST(every_flaw_is_found) {
  check_flaws(test::small_plan(6),
              {
                  [](Plan& p) { p.pixels = 30; },
                  [](Plan& p) { p.scale[1] = 0; },
                  [](Plan& p) { p.mean[2] = std::numeric_limits<float>::quiet_NaN(); },
                  [](Plan& p) { p.tensors[0].channels = 0; },
                  [](Plan& p) { p.tensors[0].height = 1 << 20; },
                  [](Plan& p) { p.tensors[0].height = 7; },
                  [](Plan& p) { std::get<StemPhase>(p.phases[0]).weight.pop_back(); },
                  [](Plan& p) { std::get<StemPhase>(p.phases[0]).bias.push_back(0); },
                  [](Plan& p) { std::get<StemPhase>(p.phases[0]).dst = 99; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].src = -1; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].src = 4; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].start = 1; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].kernel = 5; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].stride = 2; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments[0].stride = 0; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).segments.clear(); },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).weight.pop_back(); },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[2]).residual = 1; },
                  [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[2]).dst = 1; },
                  [](Plan& p) { std::get<ShiftedMeansPhase>(p.phases[5]).src = 5; },
                  [](Plan& p) { std::get<ShiftedMeansPhase>(p.phases[5]).count = 99; },
                  [](Plan& p) { std::get<ShiftedMeansPhase>(p.phases[5]).dst = 6; },
                  [](Plan& p) { std::get<LinearHeadPhase>(p.phases[7]).inputs[0].src = 4; },
                  [](Plan& p) { std::get<LinearHeadPhase>(p.phases[7]).inputs[0].count = 1000; },
                  [](Plan& p) { std::get<LinearHeadPhase>(p.phases[7]).inputs.clear(); },
                  [](Plan& p) { std::get<LinearHeadPhase>(p.phases[7]).half_weight.resize(1); },
                  [](Plan& p) { std::get<LinearHeadPhase>(p.phases[7]).scale.assign(10, 1.0f); },  // of 32-bit weights
                  [](Plan& p) { halve(std::get<LinearHeadPhase>(p.phases[7])).scale.pop_back(); },
                  [](Plan& p) { halve(std::get<LinearHeadPhase>(p.phases[7])).half_weight.pop_back(); },
                  [](Plan& p) { halve(std::get<LinearHeadPhase>(p.phases[7])).bias.pop_back(); },
                  [](Plan& p) { p.outputs[0].count = 11; },
                  [](Plan& p) { p.outputs[0].tensor = 9; },
                  [](Plan& p) { std::swap(p.phases[0], p.phases[1]); },
              });
}

FA_TEST(every_flaw_of_a_plan_in_half_is_found) {
  Plan plan = test::small_plan(6);
  for (int t = 0; t < 5; ++t) plan.tensors[t].format = Format::kHalf;
  check_flaws(plan, {
                        [](Plan& p) { p.tensors[0].format = Format::kFloat; },     // one residual, two formats
                        [](Plan& p) { p.tensors[1].format = Format::kBfloat16; },  // read from half
                        [](Plan& p) { p.tensors[3].format = Format::kBfloat16; },  // one sum, two formats
                        [](Plan& p) { std::get<SegmentedConvPhase>(p.phases[1]).copy = 4; },
                    });
  plan.tensors[4].format = Format::kFloat;  // written as float32, read by heads
  FA_CHECK(check(plan).size() == plan.tensors.size());
}

FA_TEST(every_flaw_of_a_plan_in_integers_is_found) {
  const auto conv = [](Plan& p, int phase) -> QuantizedConvPhase& {
    return std::get<QuantizedConvPhase>(p.phases[phase]);
  };
  const auto stem = [](Plan& p) -> QuantizedStemPhase& { return std::get<QuantizedStemPhase>(p.phases[0]); };
  check_flaws(test::quantized_plan(6),
              {
                  [](Plan& p) { p.tensors[0].scale.pop_back(); },
                  [](Plan& p) { p.tensors[3].low = -127; },
                  [](Plan& p) { p.tensors[2].low = -128; },  // of a map of floats
                  // The stem.
                  [](Plan& p) { p.tensors[0].low = -128; },
                  [](Plan& p) { p.tensors[0] = {8, 8, 6}; },
                  [](Plan& p) { p.tensors[2].scale.assign(6, 1.0f); },  // of a map of floats
                  [](Plan& p) { p.phases[0] = StemPhase{0, std::vector<float>(6 * 147), std::vector<float>(6)}; },
                  [&](Plan& p) { stem(p).multiplier.pop_back(); },
                  [&](Plan& p) { stem(p).weight.pop_back(); },
                  [&](Plan& p) { stem(p).bias.pop_back(); },
                  // What convolutions read.
                  [&](Plan& p) { conv(p, 3).segments[0].src = 2; },
                  [](Plan& p) {
                    p.phases[3] = SegmentedConvPhase{
                        4, {{3, 0, 6, 1, 1}}, std::vector<float>(48), std::vector<float>(8), true, -1};
                    p.tensors[4] = {8, 8, 8};
                  },
                  [&](Plan& p) { conv(p, 1).segments.clear(); },
                  [&](Plan& p) { conv(p, 1).weight.pop_back(); },
                  [&](Plan& p) { conv(p, 1).bias.push_back(0); },
                  [&](Plan& p) { conv(p, 1).multiplier.pop_back(); },
                  // What they write and add.
                  [](Plan& p) {
                    p.phases[3] = SegmentedConvPhase{
                        4, {{2, 0, 6, 1, 1}}, std::vector<float>(48), std::vector<float>(8), true, -1};
                  },
                  [&](Plan& p) { conv(p, 4).residual = 3; },  // integers
                  [&](Plan& p) { conv(p, 3).residual = 2; },  // to integers
                  [&](Plan& p) { p.tensors[2].channels = 7; },
                  [&](Plan& p) { conv(p, 4).copy = 2; },
                  [&](Plan& p) { conv(p, 4).copy = 7; },
                  [&](Plan& p) { conv(p, 4).copy = 99; },
                  [&](Plan& p) { conv(p, 4).copy = 3; },  // written before
                  [&](Plan& p) { p.tensors[6] = p.tensors[5]; },
                  [&](Plan& p) { conv(p, 4).inverse.pop_back(); },
                  [&](Plan& p) { conv(p, 3).inverse.assign(8, 1.0f); },  // without a copy
                  [](Plan& p) { p.tensors[6] = {8, 8, 6, Format::kBfloat16}; },
                  [](Plan& p) { p.tensors[5] = {8, 8, 6, Format::kBfloat16}; },
                  [&](Plan& p) {
                    conv(p, 3).copy = 6;  // beside integers
                    conv(p, 3).inverse.assign(8, 1.0f);
                    p.tensors[6] = p.tensors[4];
                    conv(p, 4).copy = -1;
                    conv(p, 4).inverse.clear();
                  },
              });
}

FA_TEST(sums_of_integers_have_a_limit) {
  for (const int channels : {1 << 15, (1 << 15) + 1}) {
    Plan plan;
    plan.pixels = 4;
    plan.tensors = {{1, 1, channels, Format::kInteger, std::vector<float>(channels, 1.0f)}, {1, 1, 1}};
    plan.phases.push_back(QuantizedStemPhase{0, std::vector<std::int8_t>(static_cast<std::size_t>(channels) * 147),
                                             std::vector<std::int32_t>(channels), std::vector<float>(channels)});
    plan.phases.push_back(QuantizedConvPhase{
        1, {{0, 0, channels, 1, 1}}, std::vector<std::int8_t>(channels), {0}, {1.0f}, false, -1, -1, {}});
    if (channels == 1 << 15) {
      check(plan);
    } else {
      FA_CHECK_THROWS(std::invalid_argument, check(plan));
    }
  }
}

FA_TEST(sums_of_transformed_integers_have_a_limit) {
  const auto plan_of = [](int channels, std::int8_t weight) {
    Plan plan;
    plan.pixels = 4;
    plan.tensors = {{1, 1, channels, Format::kInteger, std::vector<float>(channels, 1.0f)}, {1, 1, 2}};
    plan.phases.push_back(QuantizedStemPhase{0, std::vector<std::int8_t>(static_cast<std::size_t>(channels) * 147),
                                             std::vector<std::int32_t>(channels), std::vector<float>(channels)});
    std::vector<std::int8_t> weights(static_cast<std::size_t>(2) * 9 * channels, 1);
    std::fill(weights.begin() + 9 * channels, weights.end(), weight);  // of the second output
    plan.phases.push_back(
        QuantizedConvPhase{1, {{0, 0, channels, 3, 1}}, weights, {0, 0}, {1.0f, 1.0f}, false, -1, -1, {}});
    return plan;
  };
  check(test::transformed(plan_of(1024, 127), 2));
  FA_CHECK_THROWS(std::invalid_argument, check(test::transformed(plan_of(1025, 1), 2)));
  check(test::transformed(plan_of(1025, 14), 4));
  for (const std::int8_t weight : {127, -127}) {
    check(test::transformed(plan_of(115, weight), 4));  // 131,445
    FA_CHECK_THROWS(std::invalid_argument, check(test::transformed(plan_of(116, weight), 4)));
  }
  Plan flaw = test::transformed(plan_of(8, 1), 4);
  std::get<QuantizedConvPhase>(flaw.phases[1]).tile = 2;
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
  std::get<QuantizedConvPhase>(flaw.phases[1]).tile = 5;
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
}

FA_TEST(live_maps_never_share_memory) {
  for (int width : {3, 8, 17, 64}) {
    const Plan plan = test::small_plan(width);
    const auto kinds = check(plan);
    const MemoryPlan memory = plan_memory(plan, kinds);
    // Maps read by a 3x3 have a border, others none.
    const int borders[] = {0, 1, 0, 1, 0};
    for (int t = 0; t < 5; ++t) FA_CHECK(memory.maps[t].border == borders[t]);
    // First and last phase of each map, by hand; 4 is an output.
    const int first[] = {0, 1, 2, 3, 4}, last[] = {2, 2, 4, 5, 9};
    for (int a = 0; a < 5; ++a) {
      FA_CHECK(memory.maps[a].offset % 16 == 0);
      FA_CHECK(end_of(plan, memory, a) <= memory.arena_floats);
      for (int b = 0; b < a; ++b) {
        const bool live_together = first[a] <= last[b] && first[b] <= last[a];
        const bool in_place = a == 2 && b == 0;
        const bool share =
            memory.maps[a].offset < end_of(plan, memory, b) && memory.maps[b].offset < end_of(plan, memory, a);
        if (live_together && !in_place) FA_CHECK(!share);
      }
    }
    FA_CHECK(memory.maps[2].offset == memory.maps[0].offset);  // a block's output replaces its input
  }
}

FA_TEST(maps_of_integers_never_share_memory) {
  for (int width : {3, 8, 17, 64}) {
    const Plan plan = test::quantized_plan(width);
    const MemoryPlan memory = plan_memory(plan, check(plan));
    const int borders[] = {0, 1, 0, 0, 1, 0, 0, 0};
    // First and last phase of each map, by hand: a copy lives from the phase of its floats; 4, 5 and 7 are outputs.
    const int first[] = {0, 1, 2, 2, 3, 4, 4, 5}, last[] = {2, 2, 4, 3, 10, 10, 5, 10};
    for (int a = 0; a < 8; ++a) {
      const TensorShape& shape = plan.tensors[a];
      const MapPlacement& map = memory.maps[a];
      FA_CHECK(map.border == borders[a]);
      // Integers are read four at a time.
      FA_CHECK(map.pixel_pitch == (shape.narrow() ? (shape.channels + 3) / 4 * 4 : shape.channels));
      FA_CHECK(map.row_pitch == (shape.width + 2 * map.border) * map.pixel_pitch);
      FA_CHECK(map.offset % 16 == 0);
      FA_CHECK(end_of(plan, memory, a) <= memory.arena_floats);
      for (int b = 0; b < a; ++b) {
        const bool live_together = first[a] <= last[b] && first[b] <= last[a];
        const bool in_place = a == 5 && b == 2;
        if (live_together && !in_place) {
          FA_CHECK(map.offset >= end_of(plan, memory, b) || memory.maps[b].offset >= end_of(plan, memory, a));
        }
      }
    }
    FA_CHECK(memory.maps[5].offset == memory.maps[2].offset);
    const MapPlacement& bordered = memory.maps[4];  // its first position, counted in integers
    FA_CHECK(bordered.narrow_interior() ==
             kNarrowPerFloat * bordered.offset + static_cast<std::size_t>(bordered.row_pitch + bordered.pixel_pitch));
  }
}

FA_TEST(grouped_phases_stay_in_their_slot) {
  const Plan light = test::small_plan(8), plan = test::winograd_plan(72, 4);
  FA_CHECK(plan_memory(light, check(light)).first_grouped == static_cast<int>(light.phases.size()));
  std::vector<std::size_t> workspaces(plan.phases.size(), 1000);
  const MemoryPlan memory = plan_memory(plan, check(plan), workspaces);
  FA_CHECK(memory.first_grouped == 4);
  FA_CHECK(memory.slot_floats % 16 == 0 && memory.slot_floats < memory.arena_floats);
  for (int t : {2, 3, 4, 5, 6}) FA_CHECK(end_of(plan, memory, t) <= memory.slot_floats);
  for (std::size_t p = 0; p < plan.phases.size(); ++p) {
    const std::size_t end = memory.workspaces[p] + workspaces[p];
    FA_CHECK(end <= (static_cast<int>(p) < memory.first_grouped ? memory.arena_floats : memory.slot_floats));
  }
}

FA_TEST(weights_of_narrow_maps_weigh_half) {
  Plan plan;
  plan.pixels = 32;
  plan.tensors = {{8, 8, 24, Format::kBfloat16}, {8, 8, 24}};
  plan.phases.push_back(StemPhase{0, std::vector<float>(24 * 147), std::vector<float>(24)});
  plan.phases.push_back(SegmentedConvPhase{
      1, {{0, 0, 24, 3, 1}}, std::vector<float>(24 * 24 * 9), std::vector<float>(24), false, -1, -1});
  // 5,184 weights of half a float, maps of 64 * 24 * 1.5 = 2,304 floats: with whole floats they would be heavy.
  FA_CHECK(plan_memory(plan, check(plan)).first_grouped == 2);
  plan.tensors[1].channels = 96;  // 10,368 of maps of 6,912 floats
  auto& conv = std::get<SegmentedConvPhase>(plan.phases[1]);
  conv.weight.resize(static_cast<std::size_t>(96) * 24 * 9);
  conv.bias.resize(96);
  FA_CHECK(plan_memory(plan, check(plan)).first_grouped == 2);
  plan.tensors[0].height = plan.tensors[0].width = plan.tensors[1].height = plan.tensors[1].width = 4;
  plan.pixels = 16;  // maps of 1,728 floats
  FA_CHECK(plan_memory(plan, check(plan)).first_grouped == 1);
}

FA_TEST(formats_of_a_winograd_convolution_are_checked) {
  const auto phase = [](Plan& plan, int index) -> WinogradConvPhase& {
    return std::get<WinogradConvPhase>(plan.phases[index]);
  };
  const Plan plan = test::bfloat16_plan(6, 4);
  FA_CHECK(check(plan).size() == 12);
  Plan flaw = plan;
  flaw.tensors[1].format = Format::kFloat;  // read beside bfloat16
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
  flaw = plan;
  phase(flaw, 4).segments[1].src = 4;  // floats beside bfloat16
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
  flaw = plan;
  flaw.tensors[3].format = Format::kFloat;  // a copy of floats
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
  flaw = plan;
  flaw.tensors[7].format = Format::kInteger;
  flaw.tensors[7].scale.assign(6, 1.0f);
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
  flaw = test::winograd_plan(6, 4);
  flaw.tensors[6].format = Format::kBfloat16;  // written from floats
  FA_CHECK_THROWS(std::invalid_argument, check(flaw));
}

FA_TEST(flaws_of_a_stem_by_tiles_are_found) {
  const Plan plan = test::winograd_plan(6, 4);
  const auto stem = [](Plan& p) -> WinogradStemPhase& { return std::get<WinogradStemPhase>(p.phases[0]); };
  const std::vector<std::function<void(Plan&)>> flaws = {
      [&](Plan& p) { stem(p).weight.pop_back(); }, [&](Plan& p) { stem(p).bias.push_back(0); },
      [&](Plan& p) { stem(p).dst = 99; },          [&](Plan& p) { p.tensors[0].format = Format::kHalf; },
      [&](Plan& p) { p.tensors[0].height = 7; },
  };
  for (const auto& flaw : flaws) {
    Plan flawed = plan;
    flaw(flawed);
    FA_CHECK_THROWS(std::invalid_argument, check(flawed));
  }
}

FA_TEST(flaws_of_a_winograd_convolution_are_found) {
  const std::vector<std::function<void(WinogradConvPhase&)>> flaws = {
      [](WinogradConvPhase& p) { p.weight.pop_back(); },
      [](WinogradConvPhase& p) { p.segments.clear(); },
      [](WinogradConvPhase& p) { p.segments[0].kernel = 1; },
      [](WinogradConvPhase& p) { p.segments[0].stride = 2; },
      [](WinogradConvPhase& p) { p.segments[0].stride = 3; },
      [](WinogradConvPhase& p) { p.segments[0].count += 99; },
      [](WinogradConvPhase& p) { p.direct.bias.clear(); },
      [](WinogradConvPhase& p) { p.direct.residual = 1; },
      [](WinogradConvPhase& p) { p.tile = 5; },
      [](WinogradConvPhase& p) { p.tile = 3; },
  };
  FA_CHECK(check(test::winograd_plan(6, 4)).size() == 9);
  for (std::size_t i = 0; i < flaws.size(); ++i) {
    Plan plan = test::winograd_plan(6, 4);
    flaws[i](std::get<WinogradConvPhase>(plan.phases[2]));
    FA_CHECK_THROWS(std::invalid_argument, check(plan));
  }
}

FA_TEST(winograd_segments_have_one_stride) {
  Plan plan;
  plan.pixels = 32;
  plan.tensors = {{8, 8, 4}, {1, 1, 4}, {1, 1, 4}};
  plan.phases.push_back(StemPhase{0, std::vector<float>(4 * 147), std::vector<float>(4)});
  plan.phases.push_back(
      SegmentedConvPhase{1, {{0, 0, 4, 1, 8}}, std::vector<float>(16), std::vector<float>(4), false, -1});
  WinogradConvPhase phase;
  phase.direct.dst = 2;
  phase.direct.bias.resize(4);
  phase.segments = {{1, 0, 4, 3, 1}, {1, 0, 4, 3, 1}};
  phase.weight.resize(static_cast<std::size_t>(36) * 4 * 8);
  plan.phases.push_back(phase);
  FA_CHECK(check(plan).size() == 3);
  std::get<WinogradConvPhase>(plan.phases[2]).segments[1].stride = 2;  // its size fits too
  FA_CHECK_THROWS(std::invalid_argument, check(plan));
}

FA_TEST(an_input_that_is_read_later_is_not_replaced) {
  Plan plan = test::small_plan(8);
  std::get<SegmentedConvPhase>(plan.phases[3]).segments[0].src = 0;
  const MemoryPlan memory = plan_memory(plan, check(plan));
  FA_CHECK(memory.maps[2].offset != memory.maps[0].offset);
  plan = test::small_plan(8);
  plan.outputs.push_back({0, 0, 8});
  FA_CHECK(plan_memory(plan, check(plan)).maps[2].offset != plan_memory(plan, check(plan)).maps[0].offset);
}
