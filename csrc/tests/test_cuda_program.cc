// Whole networks on the emulator, against float64.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "check.h"
#include "cuda_programs.h"
#include "engine.h"
#include "plans.h"

namespace faceattr::test {
namespace {

// small_plan as a plan of bfloat16 is stored: what convolutions read is bfloat16, a stream that blocks add to float32
// beside it.
Plan bfloat16_plan(int width) {
  Plan plan = small_plan(width);
  for (int t : {0, 1, 3}) plan.tensors[t].format = Format::kBfloat16;
  const TensorShape stream = plan.tensors[2];
  const int copy = static_cast<int>(plan.tensors.size());
  plan.tensors.insert(plan.tensors.end(), {stream, stream, stream});
  plan.tensors[copy].format = plan.tensors[copy + 2].format = Format::kBfloat16;
  auto& block = std::get<SegmentedConvPhase>(plan.phases[2]);
  block.residual = -1;
  block.segments.push_back({0, 0, width, 1, 1});
  const int mid = width / 2 + 1;
  block.weight = random_values(static_cast<std::size_t>(width) * (9 * mid + width), 50, 0.5f);
  block.copy = copy;
  SegmentedConvPhase second = {copy + 1,
                               {{1, 0, mid, 3, 1}},
                               random_values(static_cast<std::size_t>(width) * 9 * mid, 51, 0.5f),
                               random_values(width, 52),
                               false,
                               2,
                               copy + 2};
  for (int p : {3, 4}) {
    for (Segment& s : std::get<SegmentedConvPhase>(plan.phases[p]).segments) s.src = s.src == 2 ? copy + 2 : s.src;
  }
  plan.phases.insert(plan.phases.begin() + 3, second);
  plan.outputs.push_back({copy + 1, 0, width});
  plan.outputs.push_back({5, 1, 2});  // means
  return plan;
}

// So many multiprocessors that each tile is chosen somewhere; with and without programmatic dependent launches.
std::vector<Target> targets() {
  std::vector<Target> all;
  for (const int multiprocessors : {1, 8, 1000}) {
    Target target;
    target.major = multiprocessors == 8 ? 8 : 9;
    target.multiprocessors = multiprocessors;
    all.push_back(target);
  }
  return all;
}

double bound(Format format) {
  switch (format) {
    case Format::kFloat:
      return 2e-6;  // as the CPU's
    case Format::kHalf:
      return 3e-3;
    default:
      return 2e-2;
  }
}

void check_error(const Plan& plan, Format format, int images) {
  const auto pixels = random_pixels(static_cast<std::size_t>(images) * plan.pixels * plan.pixels * 3, 7);
  const Expectation expected = expectation(plan, pixels, images);
  for (const Target& target : targets()) {
    const double relative = error(plan, run(Program(plan, target), pixels, images), expected, images);
    FA_CHECK_MESSAGE(relative < bound(format), std::to_string(static_cast<int>(format)) + ", width " +
                                                   std::to_string(plan.tensors[0].channels) + ": error " +
                                                   std::to_string(relative));
  }
}

FA_TEST(small_networks_are_within_their_formats_error_of_float64) {
  for (const int width : {6, 16, 40}) {
    for (const Format format : {Format::kHalf, Format::kFloat}) {
      check_error(with_format(small_plan(width), format), format, 3);
    }
    check_error(bfloat16_plan(width), Format::kBfloat16, 3);
  }
}

FA_TEST(larger_maps_and_more_sources) {
  check_error(with_format(winograd_plan(72, false), Format::kHalf), Format::kHalf, 1);
}

struct Batch {
  std::vector<std::uint8_t> u8;
  std::vector<float> f32;  // the same, as planes
};

Batch make_batch(const Plan& plan, int images) {
  Batch batch;
  const std::size_t positions = static_cast<std::size_t>(plan.pixels) * plan.pixels;
  batch.u8 = random_pixels(images * positions * 3, 9);
  batch.f32.resize(batch.u8.size());
  for (std::size_t i = 0; i < batch.u8.size(); ++i) {
    const std::size_t image = i / (3 * positions), p = i / 3 % positions, c = i % 3;
    batch.f32[(image * 3 + c) * positions + p] = (batch.u8[i] - plan.mean[c]) / plan.scale[c];
  }
  return batch;
}

Outputs run_cpu(const Plan& plan, const cpu::Pixels& pixels, int images) {
  const Engine engine(plan, "", 1);
  Outputs outputs;
  std::vector<float*> pointers;
  for (const Output& output : plan.outputs) {
    outputs.values.emplace_back(images * engine.executor().output_floats(output));
  }
  for (auto& values : outputs.values) pointers.push_back(values.data());
  engine.run(pixels, images, pointers.data());
  return outputs;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// Maps bit for bit, also as floats; vectors, whose sums have another order, to rounding.
void check_integers(const Plan& plan, const Outputs& got, const Outputs& expected, const std::string& what) {
  const std::vector<TensorKind> kinds = check(plan);
  for (std::size_t o = 0; o < plan.outputs.size(); ++o) {
    const auto& a = got.values[o];
    const auto& b = expected.values[o];
    if (kinds[plan.outputs[o].tensor] == TensorKind::kMap) {
      std::size_t different = 0;
      for (std::size_t i = 0; i < a.size(); ++i) different += std::memcmp(&a[i], &b[i], sizeof(float)) != 0;
      FA_CHECK_MESSAGE(different == 0, what + ", output " + std::to_string(o) + ": " + std::to_string(different) +
                                           " of " + std::to_string(a.size()) + " differ");
    } else {
      FA_CHECK_MESSAGE(distance(a, b) < 2e-6, what);
    }
  }
}

FA_TEST(integers_are_the_cpus) {
  for (const int width : {6, 16, 40, 72}) {
    for (const int side : {8, 7}) {
      const Plan plan = quantized_plan(width, side);
      const int images = 2;
      const Batch batch = make_batch(plan, images);
      const Outputs expected = run_cpu(plan, {batch.u8.data(), nullptr}, images);
      for (const Target& target : targets()) {
        const Program program(plan, target);
        const std::string what = "width " + std::to_string(width) + ", side " + std::to_string(side);
        check_integers(plan, run(program, batch.u8, images), expected, what);
        check_integers(plan, run(program, batch.f32, images), expected, what + ", float pixels");
      }
    }
  }
}

FA_TEST(floats_become_the_cpus_integers) {
  for (const int width : {6, 40}) {
    Plan plan = quantized_plan(width, 7);
    const int src = 5, dst = static_cast<int>(plan.tensors.size());
    plan.tensors.push_back(plan.tensors[6]);
    plan.phases.push_back(QuantizePhase{dst, src, random_values(width, 3)});
    plan.outputs = {{dst, 0, width}, {src, 0, width}};
    const Batch batch = make_batch(plan, 2);
    const Outputs expected = run_cpu(plan, {batch.u8.data(), nullptr}, 2);
    check_integers(plan, run(Program(plan, Target()), batch.u8, 2), expected, "width " + std::to_string(width));
  }
}

// More columns than a block of the stem takes, more channels, and sizes that neither divides.
FA_TEST(stems_of_any_size_are_the_cpus) {
  for (const auto& [side, channels] : std::vector<std::pair<int, int>>{{66, 33}, {1, 70}, {3, 32}}) {
    Plan plan = quantized_plan(channels, side);
    plan.phases.resize(1);
    plan.outputs = {{0, 0, channels}};
    const Batch batch = make_batch(plan, 1);
    const Outputs expected = run_cpu(plan, {batch.u8.data(), nullptr}, 1);
    for (const Target& target : targets()) {
      const Program program(plan, target);
      const std::string what = "side " + std::to_string(side);
      check_integers(plan, run(program, batch.u8, 1), expected, what);
      check_integers(plan, run(program, batch.f32, 1), expected, what + ", float pixels");
    }
  }
}

FA_TEST(integers_of_pixels_of_any_size_are_the_cpus) {
  const Plan plan = quantized_plan(16);
  Batch batch = make_batch(plan, 1);
  for (std::size_t i = 0; i < batch.f32.size(); ++i) batch.f32[i] *= i % 5 == 0 ? 300.0f : i % 7 == 0 ? 1e30f : 3.0f;
  const Outputs expected = run_cpu(plan, {nullptr, batch.f32.data()}, 1);
  check_integers(plan, run(Program(plan, Target()), batch.f32, 1), expected, "");
}

FA_TEST(float_pixels_agree_with_bytes) {
  const Plan plan = with_format(small_plan(12), Format::kHalf);
  const Batch batch = make_batch(plan, 2);
  const Program program(plan, Target());
  const Outputs a = run(program, batch.u8, 2), b = run(program, batch.f32, 2);
  for (std::size_t o = 0; o < a.values.size(); ++o) {
    FA_CHECK(distance(a.values[o], b.values[o]) < bound(Format::kHalf));
  }
}

bool is_nan(const Outputs& outputs, int image, int images) {
  for (const auto& values : outputs.values) {
    const std::size_t size = values.size() / images;
    for (std::size_t i = 0; i < size; ++i) {
      if (!std::isnan(values[image * size + i])) return false;
    }
  }
  return true;
}

// Bits of an image's outputs, in batches of different size.
bool same_bits(const Outputs& a, int image_a, int images_a, const Outputs& b, int image_b, int images_b) {
  for (std::size_t o = 0; o < a.values.size(); ++o) {
    const std::size_t size = a.values[o].size() / images_a;
    if (size != b.values[o].size() / images_b) return false;
    const float* from = &a.values[o][image_a * size];
    if (std::memcmp(from, &b.values[o][image_b * size], size * sizeof(float)) != 0) return false;
  }
  return true;
}

FA_TEST(a_pixel_that_does_not_fit_makes_all_outputs_of_its_image_nan) {
  const float infinity = std::numeric_limits<float>::infinity();
  Plan half = with_format(small_plan(40), Format::kHalf);
  half.outputs.push_back({6, 1, 5});  // plain means
  for (const Plan& plan : {half, with_format(small_plan(6), Format::kFloat), quantized_plan(6), bfloat16_plan(6)}) {
    const int images = 3, positions = plan.pixels * plan.pixels;
    const Program program(plan, Target());
    const Batch batch = make_batch(plan, images);
    const Outputs clean = run(program, batch.f32, images);
    FA_CHECK(!is_nan(clean, 1, images));
    for (const float bad : {std::nanf(""), infinity, -infinity}) {
      // Corners, of every plane, are what borders and strips could miss.
      for (const int at : {0, positions - 1, plan.pixels - 1, 2 * positions + positions / 2}) {
        Batch spoilt = batch;
        spoilt.f32[3 * positions + at] = bad;
        const Outputs outputs = run(program, spoilt.f32, images);
        FA_CHECK(is_nan(outputs, 1, images));
        FA_CHECK(same_bits(outputs, 0, images, clean, 0, images) && same_bits(outputs, 2, images, clean, 2, images));
      }
    }
  }
  // float16 holds no 1e7, float32 does.
  Batch large = make_batch(half, 1);
  large.f32[5] = 1e7f;
  FA_CHECK(is_nan(run(Program(half, Target()), large.f32, 1), 0, 1));
  const Plan floats = with_format(small_plan(6), Format::kFloat);
  FA_CHECK(!is_nan(run(Program(floats, Target()), large.f32, 1), 0, 1));
}

FA_TEST(bits_do_not_depend_on_the_place_in_a_batch) {
  Target target;
  target.multiprocessors = 1000;  // one tile for every batch
  for (const Plan& plan : {with_format(small_plan(40), Format::kHalf), bfloat16_plan(16)}) {
    const int images = 5, size = plan.pixels * plan.pixels * 3;
    const Program program(plan, target);
    const auto pixels = random_pixels(static_cast<std::size_t>(images) * size, 3);
    const Outputs all = run(program, pixels, images);
    for (int image = 0; image < images; ++image) {
      const std::vector<std::uint8_t> one(pixels.begin() + image * size, pixels.begin() + (image + 1) * size);
      FA_CHECK(same_bits(run(program, one, 1), 0, 1, all, image, images));
    }
  }
}

FA_TEST(phases_in_turn_are_the_whole) {
  const Plan plan = with_format(small_plan(6), Format::kHalf);
  const Program program(plan, Target());
  FA_CHECK(program.phase_count() == static_cast<int>(plan.phases.size()));
  const std::vector<std::string> kernels = program.kernels(1);
  FA_CHECK(kernels.size() == plan.phases.size());
  FA_CHECK_MESSAGE(kernels[0].find("stem_f16") == 0, kernels[0]);
  FA_CHECK_MESSAGE(kernels[1] == "segmented_conv_f16 32x32 split 4, 2 blocks of 128", kernels[1]);
  FA_CHECK_MESSAGE(kernels[4].find(" + gather_f16") != std::string::npos, kernels[4]);
  FA_CHECK(program.workspace_bytes(2) == 2 * program.workspace_bytes(1) && program.max_images() >= 64);
}

FA_TEST(what_no_kernel_computes_is_refused) {
  FA_CHECK_THROWS(std::invalid_argument, Program(winograd_plan(6, true), Target()));
  FA_CHECK_THROWS(std::invalid_argument, Program(transformed(quantized_plan(6), 2), Target()));
  Plan many = with_format(small_plan(6), Format::kHalf);
  auto& conv = std::get<SegmentedConvPhase>(many.phases[1]);
  conv.segments.assign(33, {0, 0, 1, 1, 1});
  conv.weight.assign(33 * conv.bias.size(), 1.0f);
  FA_CHECK_THROWS(std::invalid_argument, Program(many, Target()));
  Plan large = with_format(small_plan(6), Format::kHalf);
  std::get<SegmentedConvPhase>(large.phases[1]).weight[3] = 1e5f;
  FA_CHECK_THROWS(std::invalid_argument, Program(large, Target()));
}

}  // namespace
}  // namespace faceattr::test
