// Whole networks with the kernels of hopper/ beside the others, on the emulator, against float64.
#include <algorithm>

#include "base/float16.h"
#include "check.h"
#include "cuda/hopper/row_conv.h"
#include "cuda/launch.h"
#include "cuda_programs.h"
#include "plans.h"

namespace faceattr::test {
namespace {

Target hopper(int multiprocessors) {
  Target target;
  target.major = 9;
  target.multiprocessors = multiprocessors;
  target.shared_bytes = 232448;
  target.hopper_kernels = true;
  return target;
}

struct Builder {
  Plan plan;
  std::uint32_t seed = 1;

  explicit Builder(int pixels) {
    plan.pixels = pixels;
    for (int c = 0; c < 3; ++c) {
      plan.mean[c] = 120.0f + c;
      plan.scale[c] = 60.0f + c;
    }
  }
  std::vector<float> weights(int outputs, int k, float gain) {
    return random_values(static_cast<std::size_t>(outputs) * k, seed++, gain / std::sqrt(static_cast<float>(k)));
  }
  int tensor(int side, int channels, Format format) {
    plan.tensors.push_back({side, side, channels, format});
    return static_cast<int>(plan.tensors.size()) - 1;
  }
  int stem(int channels, Format format) {
    const int dst = tensor(plan.pixels / 4, channels, format);
    plan.phases.push_back(StemPhase{dst, weights(channels, 147, 1.7f), random_values(channels, seed++)});
    return dst;
  }
  // Where dst is float32 and sources are not: with a copy, and returns the copy.
  int conv(int channels, std::vector<Segment> segments, bool relu, int residual = -1, bool floats = false) {
    const TensorShape src = plan.tensors[segments[0].src];
    const int side = strided(src.height, segments[0].stride);
    const int dst = tensor(side, channels, floats ? Format::kFloat : src.format);
    const int copy = floats ? tensor(side, channels, src.format) : -1;
    int k = 0;
    for (const Segment& s : segments) k += s.kernel * s.kernel * s.count;
    plan.phases.push_back(SegmentedConvPhase{dst, std::move(segments), weights(channels, k, relu ? 2.4f : 1.0f),
                                             random_values(channels, seed++, 0.3f), relu, residual, copy});
    return floats ? copy : dst;
  }
  // As float32, what `narrow` is the copy of, which is the tensor before it.
  int residual(int narrow, bool floats) const { return floats ? narrow - 1 : narrow; }
  int block(int x, int middle, bool floats) {
    const int channels = plan.tensors[x].channels;
    const int m = conv(middle, {{x, 0, channels, 1, 1}}, true);
    return conv(channels, {{m, 0, middle, 3, 1}}, false, residual(x, floats), floats);
  }
  int means(int src, int kernel, int stride) {
    const int channels = plan.tensors[src].channels, dst = tensor(1, kernel * kernel * channels, Format::kFloat);
    plan.phases.push_back(ShiftedMeansPhase{dst, src, kernel, stride, 0, channels});
    return dst;
  }
  void head(int outputs, const std::vector<int>& vectors) {
    std::vector<LinearInput> inputs;
    int k = 0;
    for (int v : vectors) {
      inputs.push_back({v, plan.tensors[v].channels});
      k += inputs.back().count;
    }
    const int dst = tensor(1, outputs, Format::kFloat);
    plan.phases.push_back(LinearHeadPhase{dst, inputs, weights(outputs, k, 1.7f), random_values(outputs, seed++)});
    plan.outputs.push_back({dst, 0, outputs});
  }
};

// 56 x 56 pixels: the stem's map is of 14 x 14 already. The first block reads a convolution, the last is followed by a
// stride, means and, with floats, a reader of either form.
Plan small_network(Format format, int stream, int middle, int blocks) {
  Builder b(56);
  const bool floats = format == Format::kBfloat16;
  int x = b.stem(24, format);
  x = b.conv(stream, {{x, 0, 24, 1, 1}}, false, -1, floats);
  for (int i = 0; i < blocks; ++i) x = b.block(x, middle, floats);
  const int last = b.conv(40, {{x, 0, stream, 3, 2}}, true);
  b.head(7, {b.means(b.residual(x, floats), 1, 2), b.means(last, 3, 1)});
  b.plan.outputs.push_back({b.residual(x, floats), 0, stream});
  return b.plan;
}

double error_of(const Plan& plan, const Program& program, const std::vector<std::uint8_t>& pixels,
                const Expectation& expected, int images) {
  return error(plan, run(program, pixels, images), expected, images);
}

FA_TEST(small_networks_mix_both_kinds_of_kernel) {
  const int images = 3;
  for (const Format format : {Format::kHalf, Format::kBfloat16}) {
    const double bound = format == Format::kHalf ? 2e-3 : 1e-2;
    for (const int stream : {128, 200}) {
      const Plan plan = small_network(format, stream, 72, 2);
      const auto pixels = random_pixels(static_cast<std::size_t>(images) * plan.pixels * plan.pixels * 3, 7);
      const Expectation expected = expectation(plan, pixels, images);
      const Program program(plan, hopper(2));
      cuda::emulator::options() = {static_cast<std::uint32_t>(stream), 0};
      const double relative = error_of(plan, program, pixels, expected, images);
      FA_CHECK_MESSAGE(relative < bound, std::to_string(stream) + ": error " + std::to_string(relative));
    }
  }
}

FA_TEST(kernels_name_what_runs) {
  const Plan plan = small_network(Format::kHalf, 128, 64, 3);
  const Program large(plan, hopper(8));
  const std::vector<std::string> many = large.kernels(4), few = large.kernels(3);
  FA_CHECK(many.size() == plan.phases.size() && few.size() == plan.phases.size());
  FA_CHECK_MESSAGE(many[0] == "wgmma_stem_f16 4x14, 16 blocks of 256", many[0]);
  FA_CHECK_MESSAGE(many[2] == "resident_blocks_f16 x3, 4 blocks of 384", many[2]);
  for (int phase = 3; phase < 8; ++phase) FA_CHECK_MESSAGE(many[phase].find("with phase 2") == 0, many[phase]);
  FA_CHECK_MESSAGE(few[2].find("segmented_conv_f16") == 0 && few[7].find("segmented_conv_f16") == 0, few[2]);
  // More images than multiprocessors: whole clusters, which take several each.
  FA_CHECK_MESSAGE(large.kernels(30)[2] == "resident_blocks_f16 x3, 8 blocks of 384", large.kernels(30)[2]);
  Target portable = hopper(8);
  portable.hopper_kernels = false;
  for (const std::string& name : Program(plan, portable).kernels(30)) {
    FA_CHECK_MESSAGE(name.find("wgmma") == std::string::npos && name.find("resident") == std::string::npos, name);
  }
}

// A batch below the limit and one above take different kernels, from the same workspace and weights.
FA_TEST(any_batch_agrees) {
  const Plan plan = small_network(Format::kHalf, 128, 64, 2);
  const Program program(plan, hopper(6));
  const int size = plan.pixels * plan.pixels * 3;
  const auto pixels = random_pixels(static_cast<std::size_t>(5) * size, 8);
  const Expectation expected = expectation(plan, pixels, 5);
  for (const int images : {1, 2, 3, 5}) {
    const std::vector<std::uint8_t> part(pixels.begin(), pixels.begin() + images * size);
    const double relative = error_of(plan, program, part, expected, images);
    FA_CHECK_MESSAGE(relative < 2e-3, std::to_string(images) + " images: error " + std::to_string(relative));
  }
}

FA_TEST(pixels_of_floats_and_flags) {
  const Plan plan = small_network(Format::kHalf, 128, 64, 1);
  const Program program(plan, hopper(2));
  const int images = 3, positions = plan.pixels * plan.pixels;
  const auto bytes = random_pixels(static_cast<std::size_t>(images) * positions * 3, 9);
  std::vector<float> floats(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::size_t image = i / (3 * positions), p = i / 3 % positions, c = i % 3;
    floats[(image * 3 + c) * positions + p] = (bytes[i] - plan.mean[c]) / plan.scale[c];
  }
  const Expectation expected = expectation(plan, bytes, images);
  const Outputs clean = run(program, floats, images);
  const double relative = error(plan, clean, expected, images);
  FA_CHECK_MESSAGE(relative < 2e-3, std::to_string(relative));
  for (const int at : {0, positions - 1, plan.pixels - 1, 2 * positions + positions / 2}) {
    std::vector<float> spoilt = floats;
    spoilt[3 * positions + at] = INFINITY;
    const Outputs outputs = run(program, spoilt, images);
    for (std::size_t o = 0; o < outputs.values.size(); ++o) {
      const std::size_t count = outputs.values[o].size() / images;
      for (std::size_t i = 0; i < outputs.values[o].size(); ++i) {
        const float value = outputs.values[o][i];
        FA_CHECK(i / count == 1 ? std::isnan(value) : value == clean.values[o][i]);
      }
    }
  }
}

// Of other sizes: several tiles of columns and of channels, and sides that tiles do not divide.
FA_TEST(stems_of_any_size) {
  struct Size {
    int pixels, channels;
    Format format;
  };
  for (const Size& size : {Size{224, 32, Format::kHalf},
                           {20, 72, Format::kBfloat16},
                           {136, 8, Format::kHalf},
                           {268, 40, Format::kBfloat16}}) {
    Builder b(size.pixels);
    const int x = b.stem(size.channels, size.format);
    b.plan.outputs.push_back({x, 0, size.channels});
    const auto bytes = random_pixels(static_cast<std::size_t>(size.pixels) * size.pixels * 3, 10);
    const Expectation expected = expectation(b.plan, bytes, 1);
    for (const int multiprocessors : {1, 1000}) {  // four rows a block, and one
      const double relative = error_of(b.plan, Program(b.plan, hopper(multiprocessors)), bytes, expected, 1);
      FA_CHECK_MESSAGE(relative < (size.format == Format::kHalf ? 2e-3 : 1e-2),
                       std::to_string(size.pixels) + " pixels: error " + std::to_string(relative));
    }
  }
}

// Maps of 56 and of fewer columns, heights that strips do not divide, channels that fill up, a slice, no 1x1; blocks
// that take one strip and blocks that take many.
FA_TEST(convolutions_of_rows) {
  struct Shape {
    int pixels, near, own, channels;
    Format format;
  };
  const int images = 2;
  for (const Shape& shape :
       {Shape{224, 64, 32, 64, Format::kHalf}, {212, 40, 20, 58, Format::kBfloat16}, {196, 64, 0, 64, Format::kHalf}}) {
    Builder b(shape.pixels);
    const int x = b.stem(shape.near + 8, shape.format);
    std::vector<Segment> segments = {{x, 8, shape.near, 3, 1}};
    if (shape.own > 0) segments.insert(segments.begin(), {x, 0, shape.own, 1, 1});
    const int y = b.conv(shape.channels, segments, shape.own > 0);
    b.plan.outputs.push_back({y, 0, shape.channels});
    const auto bytes = random_pixels(static_cast<std::size_t>(images) * shape.pixels * shape.pixels * 3, 12);
    const Expectation expected = expectation(b.plan, bytes, images);
    for (const int multiprocessors : {3, 26}) {
      const Program program(b.plan, hopper(multiprocessors));
      FA_CHECK_MESSAGE(program.kernels(images)[1].find("row_conv") == 0, program.kernels(images)[1]);
      cuda::emulator::options() = {static_cast<std::uint32_t>(multiprocessors), 0};
      const double relative = error_of(b.plan, program, bytes, expected, images);
      FA_CHECK_MESSAGE(relative < (shape.format == Format::kHalf ? 2e-3 : 1e-2),
                       std::to_string(shape.pixels) + " pixels: error " + std::to_string(relative));
    }
    FA_CHECK(Program(b.plan, hopper(1000)).kernels(images)[1].find("segmented_conv") == 0);
  }
}

struct SkipFence : cuda::NoRowConvFaults {
  static constexpr bool kSkipFence = true;
};
struct SkipZeros : cuda::NoRowConvFaults {
  static constexpr bool kSkipZeros = true;
};
struct ReleaseEarly : cuda::NoRowConvFaults {
  static constexpr bool kReleaseEarly = true;
};

// Of ones, by weights of one: a sum counts the taps inside the map. What the emulator says, or how many are wrong.
template <class Faults>
std::string counted_taps(std::uint32_t seed) {
  constexpr int kSide = 56, kImages = 2, kOne = 0x3c00;
  const std::size_t chunks = static_cast<std::size_t>(kImages) * 8 * kSide * kSide;
  cuda::emulator::GlobalArray<std::uint16_t> src(std::vector<std::uint16_t>(chunks * 8, kOne)), dst(chunks * 8);
  cuda::emulator::GlobalArray<std::uint16_t> weights(
      std::vector<std::uint16_t>(cuda::RowConvShape::kWeightBytes / 2, kOne));
  cuda::emulator::GlobalArray<float> bias(std::vector<float>(64));
  cuda::RowConvParams params = {};
  params.near = reinterpret_cast<const std::uint8_t*>(src.data());
  params.near_map_groups = params.near_groups = params.dst_groups = 8;
  params.dst = reinterpret_cast<std::uint8_t*>(dst.data());
  params.weights = reinterpret_cast<const std::uint8_t*>(weights.data());
  params.bias = bias.data();
  params.images = kImages;
  params.height = params.width = kSide;
  cuda::LaunchConfig config;
  config.grid.x = 2;
  config.threads = cuda::RowConvShape::kThreads;
  config.shared_bytes = cuda::RowConvShape::kSharedBytes;
  cuda::emulator::options() = {seed, 0};
  try {
    cuda::launch<cuda::RowConv<cuda::Float16, Faults>>(config, params);
  } catch (const cuda::LaunchError& error) {
    return error.what();
  }
  int wrong = 0;
  for (std::size_t i = 0; i < dst.size(); ++i) {
    const int position = static_cast<int>(i / 8 % (kSide * kSide)), y = position / kSide, x = position % kSide;
    const int taps = (3 - (y == 0) - (y == kSide - 1)) * (3 - (x == 0) - (x == kSide - 1));
    wrong += from_float16(dst[i]) != static_cast<float>(64 * taps);
  }
  return std::to_string(wrong) + " wrong";
}

FA_TEST(faults_of_rows_are_caught) {
  for (const std::uint32_t seed : {1u, 2u}) {
    const auto expect = [&](const std::string& said, const char* text) {
      FA_CHECK_MESSAGE(said.find(text) != std::string::npos, said);
    };
    FA_CHECK(counted_taps<cuda::NoRowConvFaults>(seed) == "0 wrong");
    expect(counted_taps<SkipFence>(seed), "without a fence_async after it");
    expect(counted_taps<ReleaseEarly>(seed), "operands changed between its issue and wgmma_wait");
    const std::string zeros = counted_taps<SkipZeros>(seed);
    FA_CHECK_MESSAGE(zeros != "0 wrong" && zeros.find(" wrong") != std::string::npos, zeros);
  }
}

// The shapes of the paper's network, rewritten: 728.6 M multiply-adds.
Plan paper_shapes(Format format) {
  Builder b(224);
  const bool floats = format == Format::kBfloat16;
  const int x0 = b.stem(32, format);
  const int m1 = b.conv(64, {{x0, 0, 32, 1, 1}}, true);
  const int m2 = b.conv(64, {{m1, 0, 64, 3, 1}, {x0, 0, 32, 1, 1}}, true);
  const int m3 = b.conv(64, {{m2, 0, 64, 3, 2}, {m1, 0, 64, 3, 2}, {x0, 0, 32, 1, 2}}, true);
  const int x2 = b.conv(128, {{m2, 0, 64, 3, 4}, {m1, 0, 64, 3, 4}, {x0, 0, 32, 1, 4}}, false);
  int x = b.conv(256, {{m3, 0, 64, 3, 2}, {x2, 0, 128, 1, 1}}, false, -1, floats);
  for (int i = 0; i < 6; ++i) x = b.block(x, 128, floats);
  const int m10 = b.conv(256, {{x, 0, 256, 1, 1}}, true);
  const int m11 = b.conv(128, {{m10, 0, 128, 3, 2}, {x, 0, 256, 1, 2}}, true);
  const int emotion = b.conv(128, {{m10, 128, 128, 3, 2}, {x, 0, 256, 1, 2}}, true);
  const int stream = b.means(b.residual(x, floats), 1, 4);
  b.head(334, {b.means(m11, 3, 1), stream});
  b.head(7, {b.means(emotion, 3, 1), stream});
  return b.plan;
}

FA_TEST(the_papers_shapes) {
  const Plan plan = paper_shapes(Format::kHalf);
  const int images = 1;
  const auto pixels = random_pixels(static_cast<std::size_t>(images) * plan.pixels * plan.pixels * 3, 11);
  const Program program(plan, hopper(2));
  FA_CHECK_MESSAGE(program.kernels(images)[6] == "resident_blocks_f16 x6, 2 blocks of 384", program.kernels(images)[6]);
  FA_CHECK_MESSAGE(program.kernels(images)[2] == "row_conv_f16, 2 blocks of 288", program.kernels(images)[2]);
  const double relative = error_of(plan, program, pixels, expectation(plan, pixels, images), images);
  FA_CHECK_MESSAGE(relative < 2e-3, "error " + std::to_string(relative));
}

}  // namespace
}  // namespace faceattr::test
