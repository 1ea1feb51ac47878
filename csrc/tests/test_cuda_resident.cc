// Resident blocks on the emulator: against float64 by plain loops, and with planted faults.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/bfloat16.h"
#include "base/float16.h"
#include "check.h"
#include "cuda/emulator/machine.h"
#include "cuda/hopper/launches.h"
#include "cuda/hopper/resident_blocks.h"
#include "cuda/hopper/resident_run.h"
#include "cuda/launch.h"
#include "cuda/memory.h"
#include "plans.h"

namespace faceattr::test {
namespace {

using namespace cuda;
using cuda::emulator::GlobalArray;

constexpr int kSide = 14, kPositions = kSide * kSide;

double as_stored(Format format, double value) {
  const float rounded = static_cast<float>(value);
  return format == Format::kHalf ? from_float16(to_float16(rounded)) : from_bfloat16(to_bfloat16(rounded));
}

// Residual blocks from tensor 0 on; a block's phases write its middle and its stream.
Plan blocks_plan(int stream, int middle, int blocks, Format format, std::uint32_t seed) {
  Plan plan;
  plan.tensors.push_back({kSide, kSide, stream, format});
  for (int b = 0; b < blocks; ++b) {
    const int x = 2 * b, m = x + 1, next = x + 2;
    plan.tensors.push_back({kSide, kSide, middle, format});
    plan.tensors.push_back({kSide, kSide, stream, format});
    const auto weights = [&](int o, int k) {
      return random_values(static_cast<std::size_t>(o) * k, ++seed, 2.0f / std::sqrt(static_cast<float>(k)));
    };
    plan.phases.push_back(
        SegmentedConvPhase{m, {{x, 0, stream, 1, 1}}, weights(middle, stream), weights(middle, 9), true});
    plan.phases.push_back(
        SegmentedConvPhase{next, {{m, 0, middle, 3, 1}}, weights(stream, 9 * middle), weights(stream, 9), false, x});
    std::get<SegmentedConvPhase>(plan.phases[2 * b]).bias.resize(middle);
    std::get<SegmentedConvPhase>(plan.phases[2 * b + 1]).bias.resize(stream);
  }
  plan.outputs.push_back({2 * blocks, 0, stream});
  return plan;
}

using Map = std::vector<double>;  // [channel][position]

// Plus weight[o][tap, c] applied to src.
void add_conv(const Map& src, const std::vector<float>& weight, int kernel, Map& dst) {
  const int inputs = static_cast<int>(src.size()) / kPositions, outputs = static_cast<int>(dst.size()) / kPositions;
  const float* w = weight.data();
  for (int o = 0; o < outputs; ++o) {
    double* const to = dst.data() + o * kPositions;
    for (int tap = 0; tap < kernel * kernel; ++tap) {
      const int dy = tap / kernel - kernel / 2, dx = tap % kernel - kernel / 2;
      for (int c = 0; c < inputs; ++c) {
        const double factor = *w++;
        const double* const from = src.data() + c * kPositions;
        for (int y = std::max(0, -dy); y < kSide - std::max(0, dy); ++y) {
          const int shift = (y + dy) * kSide + dx;
          for (int x = std::max(0, -dx); x < kSide - std::max(0, dx); ++x)
            to[y * kSide + x] += factor * from[shift + x];
        }
      }
    }
  }
}

Map expected(const Plan& plan, Map x) {
  for (std::size_t p = 0; p < plan.phases.size(); p += 2) {
    const auto &reduce = std::get<SegmentedConvPhase>(plan.phases[p]),
               &expand = std::get<SegmentedConvPhase>(plan.phases[p + 1]);
    Map middle(reduce.bias.size() * kPositions);
    for (std::size_t i = 0; i < middle.size(); ++i) middle[i] = reduce.bias[i / kPositions];
    add_conv(x, reduce.weight, 1, middle);
    for (double& value : middle) value = std::max(value, 0.0);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += expand.bias[i / kPositions];
    add_conv(middle, expand.weight, 3, x);
  }
  return x;
}

struct Case {
  Plan plan;
  Format format;
  int images, groups;
  std::vector<std::uint16_t> src;
  std::vector<Map> wanted;  // by image
};

Case make_case(int stream, int middle, int blocks, Format format, int images, std::uint32_t seed) {
  Case c = {blocks_plan(stream, middle, blocks, format, seed), format, images, (stream + 7) / 8, {}, {}};
  c.src.resize(static_cast<std::size_t>(images) * c.groups * kPositions * 8);
  const std::vector<float> values = random_values(static_cast<std::size_t>(images) * stream * kPositions, seed + 99);
  for (int image = 0; image < images; ++image) {
    Map x(static_cast<std::size_t>(stream) * kPositions);
    for (int channel = 0; channel < stream; ++channel) {
      for (int p = 0; p < kPositions; ++p) {
        const std::size_t i = static_cast<std::size_t>(channel) * kPositions + p;
        x[i] = as_stored(format, values[image * x.size() + i]);
        const float value = static_cast<float>(x[i]);
        c.src[map_index(image, channel / 8, p, c.groups, kPositions) * 8 + channel % 8] =
            format == Format::kHalf ? to_float16(value) : static_cast<std::uint16_t>(to_bfloat16(value));
      }
    }
    c.wanted.push_back(expected(c.plan, std::move(x)));
  }
  return c;
}

struct Result {
  std::vector<std::uint16_t> narrow;
  std::vector<float> floats;
};

template <class T, class Shape, int kCluster, class Faults = NoResidentFaults>
Result run(const Case& c, int grid, std::uint32_t seed, bool in_place = false) {
  emulator::options() = {seed, 0};
  const std::vector<ResidentRun> runs = find_resident_runs(c.plan);
  FA_CHECK(runs.size() == 1 && runs[0].blocks() == static_cast<int>(c.plan.phases.size() / 2));
  Packing packing;
  const PackedResident packed = pack_resident(c.plan, runs[0], packing);
  GlobalArray<std::byte> weights(packing.bytes());
  GlobalArray<std::uint16_t> src(c.src), dst(c.src.size());
  const int floats_groups = (c.plan.tensors[0].channels + 3) / 4;
  GlobalArray<float> floats(static_cast<std::size_t>(c.images) * floats_groups * 4 * kPositions);
  ResidentParams params = {};
  params.src = reinterpret_cast<const std::uint8_t*>(src.data());
  params.dst = reinterpret_cast<std::uint8_t*>(in_place ? src.data() : dst.data());
  params.floats = reinterpret_cast<std::uint8_t*>(floats.data());
  params.weights = reinterpret_cast<const std::uint8_t*>(weights.data()) + packed.weights;
  params.bias = reinterpret_cast<const float*>(weights.data() + packed.bias);
  params.images = c.images;
  params.blocks = runs[0].blocks();
  params.groups = c.groups;
  params.floats_groups = floats_groups;
  LaunchConfig config;
  config.grid.x = grid;
  config.cluster = kCluster;
  config.threads = kResidentThreads;
  config.shared_bytes = Shape::kSharedBytes;
  config.dependent = true;
  launch<ResidentBlocks<T, Shape, kCluster, Faults>>(config, params);
  return {(in_place ? src : dst).values(), floats.values()};
}

// ||got - wanted|| / ||wanted||, the worst image. Both forms must agree.
double error(const Case& c, const Result& result) {
  double worst = 0;
  const int channels = c.plan.tensors[0].channels;
  for (int image = 0; image < c.images; ++image) {
    double difference = 0, norm = 0;
    for (int channel = 0; channel < channels; ++channel) {
      for (int p = 0; p < kPositions; ++p) {
        const std::uint16_t bits =
            result.narrow[map_index(image, channel / 8, p, c.groups, kPositions) * 8 + channel % 8];
        const double value =
            c.format == Format::kHalf ? from_float16(bits) : from_bfloat16(static_cast<std::int16_t>(bits));
        const float other =
            result.floats[map_index(image, channel / 4, p, (channels + 3) / 4, kPositions) * 4 + channel % 4];
        if (!(other == value)) return NAN;
        const double wanted = c.wanted[image][static_cast<std::size_t>(channel) * kPositions + p];
        difference += (value - wanted) * (value - wanted);
        norm += wanted * wanted;
      }
    }
    const double relative = std::sqrt(difference / norm);
    worst = relative > worst || std::isnan(relative) ? relative : worst;
  }
  return worst;
}

using Large = ResidentShape<14, 256, 128>;
using Small = ResidentShape<14, 128, 128>;

double bound(Format format) { return format == Format::kHalf ? 2e-3 : 1e-2; }

void expect_exact_enough(const Case& c, const Result& result, const std::string& what) {
  const double relative = error(c, result);
  FA_CHECK_MESSAGE(relative < bound(c.format), what + ": error " + std::to_string(relative));
}

FA_TEST(one_block_of_one_image) {
  const Case half = make_case(256, 128, 1, Format::kHalf, 1, 1);
  expect_exact_enough(half, run<Float16, Large, 1>(half, 1, 0), "alone");
  expect_exact_enough(half, run<Float16, Large, 2>(half, 2, 1), "a cluster for one image");
  const Case bfloat16 = make_case(256, 128, 1, Format::kBfloat16, 1, 2);
  expect_exact_enough(bfloat16, run<Bfloat16, Large, 2>(bfloat16, 2, 2), "bfloat16");
}

// Three images of a cluster of two: the second block has none in the second round.
FA_TEST(rounds_may_be_ragged) {
  const Case c = make_case(256, 128, 2, Format::kHalf, 3, 3);
  const Result first = run<Float16, Large, 2>(c, 2, 0);
  expect_exact_enough(c, first, "two rounds");
  for (const std::uint32_t seed : {1u, 2u, 3u}) {
    const Result again = run<Float16, Large, 2>(c, seed == 3 ? 4 : 2, seed, true);
    FA_CHECK(again.narrow == first.narrow && again.floats == first.floats);
  }
}

FA_TEST(six_blocks) {
  const Case half = make_case(256, 128, 6, Format::kHalf, 2, 4);
  expect_exact_enough(half, run<Float16, Large, 2>(half, 2, 5), "float16");
  const Case bfloat16 = make_case(256, 128, 6, Format::kBfloat16, 1, 5);
  expect_exact_enough(bfloat16, run<Bfloat16, Large, 1>(bfloat16, 1, 6), "bfloat16");
}

// Channels that fill the compiled shape up with zeros; a last group of 8 that is not full.
FA_TEST(channels_are_padded) {
  for (const auto& [stream, middle] : {std::pair{192, 128}, {250, 70}}) {
    const Case c = make_case(stream, middle, 2, Format::kHalf, 2, 6);
    expect_exact_enough(c, run<Float16, Large, 2>(c, 2, 7), "channels of 256");
  }
  const Case c = make_case(128, 64, 2, Format::kHalf, 2, 7);
  expect_exact_enough(c, run<Float16, Small, 2>(c, 2, 8), "channels of 128");
}

FA_TEST(weights_lie_where_products_read_them) {
  for (const ResidentShapeId id : {ResidentShapeId::k14x256x128, ResidentShapeId::k14x128x128}) {
    visit_shape(id, [](auto shape) {
      constexpr int kStream = shape.kStreamChannels, kMiddle = shape.kMiddleChannels;
      std::vector<int> used(resident_block_chunks(kStream, kMiddle));
      const auto use = [&](int at) {
        FA_CHECK(at >= 0 && at < static_cast<int>(used.size()));
        ++used[at];
      };
      for (int group = 0; group < kStream / 8; ++group) {
        for (int row = 0; row < kMiddle; ++row) use(resident_reduce_index(kMiddle, group, row));
      }
      for (int tap = 0; tap < 9; ++tap) {
        for (int group = 0; group < kMiddle / 8; ++group) {
          for (int row = 0; row < kStream; ++row) {
            use(resident_expand_index(kStream, kMiddle, tap / 3, tap % 3, group, row));
          }
        }
      }
      FA_CHECK(std::all_of(used.begin(), used.end(), [](int count) { return count == 1; }));
      FA_CHECK(used.size() * kGroupBytes == static_cast<std::size_t>(shape.kBlockSlots) * shape.kSlotBytes);
    });
  }
}

// ---- Faults.

struct SkipFence : NoResidentFaults {
  static constexpr bool kSkipFence = true;
};
struct SkipBorder : NoResidentFaults {
  static constexpr bool kSkipBorder = true;
};
struct ReleaseEarly : NoResidentFaults {
  static constexpr bool kReleaseEarly = true;
};
struct WrongCount : NoResidentFaults {
  static constexpr bool kWrongCount = true;
};

// What the emulator says, or the error as a number.
template <class Faults>
std::string outcome(const Case& c, std::uint32_t seed) {
  try {
    return std::to_string(error(c, run<Float16, Small, 2, Faults>(c, 2, seed)));
  } catch (const LaunchError& fault) {
    return fault.what();
  }
}

void expect_said(const std::string& said, std::initializer_list<const char*> expected) {
  bool known = false;
  for (const char* text : expected) known = known || said.find(text) != std::string::npos;
  FA_CHECK_MESSAGE(known, said);
}

FA_TEST(faults_are_caught) {
  const Case c = make_case(128, 128, 1, Format::kHalf, 2, 8);
  for (const std::uint32_t seed : {0u, 1u, 2u}) {
    const std::string sound = outcome<NoResidentFaults>(c, seed);
    FA_CHECK_MESSAGE(std::stod(sound) < 2e-3, sound);
    expect_said(outcome<SkipFence>(c, seed), {"without a fence_async after it"});
    const std::string border = outcome<SkipBorder>(c, seed);
    FA_CHECK_MESSAGE(std::stod(border) > 2e-2, border);
    expect_said(outcome<ReleaseEarly>(c, seed), {"operands changed between its issue and wgmma_wait"});
    expect_said(outcome<WrongCount>(c, seed),
                {"operands changed between its issue and wgmma_wait", "more than the 2 arrivals", "deadlock"});
  }
}

// ---- Which phases are taken.

// Phase by phase the last stream may take the first one's place; of a run it must not, since images finish one by one.
FA_TEST(a_run_reads_and_writes_apart) {
  const Plan plan = blocks_plan(256, 128, 3, Format::kHalf, 1);
  const std::vector<TensorKind> kinds(plan.tensors.size(), TensorKind::kMap);
  const auto overlap = [&](const Memory& memory) {
    return memory.map_offset[0] < memory.map_offset[6] + memory.map_bytes[6] &&
           memory.map_offset[6] < memory.map_offset[0] + memory.map_bytes[0];
  };
  const ResidentRun run = find_resident_runs(plan)[0];
  FA_CHECK(!overlap(place_tensors(plan, kinds, {{run.src, run.last}})));
}

FA_TEST(runs_are_found_by_structure) {
  const Plan plan = blocks_plan(256, 128, 3, Format::kHalf, 1);
  const auto runs = find_resident_runs(plan);
  FA_CHECK(runs.size() == 1 && runs[0].first == 0 && runs[0].last == 5 && runs[0].src == 0 && runs[0].narrow == 6);

  // A stream that is read elsewhere must be written: a run ends there.
  Plan tapped = plan;
  tapped.outputs.push_back({2, 0, 3});
  const auto two = find_resident_runs(tapped);
  FA_CHECK(two.size() == 2 && two[0].last == 1 && two[0].narrow == 2 && two[1].first == 2 && two[1].last == 5);

  // A middle that is read elsewhere: its block is none.
  tapped = plan;
  tapped.outputs.push_back({3, 0, 3});
  const auto around = find_resident_runs(tapped);
  FA_CHECK(around.size() == 2 && around[0].last == 1 && around[1].first == 4);

  const auto none = [](const Plan& changed) { return find_resident_runs(changed).empty(); };
  FA_CHECK(none(blocks_plan(256, 136, 1, Format::kHalf, 1)) && none(blocks_plan(64, 64, 1, Format::kHalf, 1)));
  FA_CHECK(none(blocks_plan(256, 128, 1, Format::kFloat, 1)) && none(blocks_plan(256, 128, 1, Format::kInteger, 1)));
  const Plan one = blocks_plan(256, 128, 1, Format::kHalf, 1);
  const auto changed = [&](auto change) {
    Plan copy = one;
    change(copy, std::get<SegmentedConvPhase>(copy.phases[0]), std::get<SegmentedConvPhase>(copy.phases[1]));
    return copy;
  };
  using Conv = SegmentedConvPhase;
  FA_CHECK(!none(one));
  FA_CHECK(none(changed([](Plan&, Conv& reduce, Conv&) { reduce.relu = false; })));
  FA_CHECK(none(changed([](Plan&, Conv&, Conv& expand) { expand.relu = true; })));
  FA_CHECK(none(changed([](Plan&, Conv&, Conv& expand) { expand.residual = -1; })));
  FA_CHECK(none(changed([](Plan&, Conv&, Conv& expand) { expand.segments[0].stride = 2; })));
  FA_CHECK(none(changed([](Plan&, Conv&, Conv& expand) { expand.segments[0].count = 64; })));
  FA_CHECK(none(changed([](Plan&, Conv& reduce, Conv&) { reduce.segments[0].kernel = 3; })));
  FA_CHECK(none(changed([](Plan&, Conv& reduce, Conv&) { reduce.segments.push_back(reduce.segments[0]); })));
  FA_CHECK(none(changed([](Plan& p, Conv&, Conv&) {
    for (TensorShape& shape : p.tensors) shape.height = 12;
  })));
}

}  // namespace
}  // namespace faceattr::test
