// The whole engine on small plans: any batch, any number of threads or callers, forks, non-finite pixels.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "check.h"
#include "cpu/cpu_features.h"
#include "engine.h"
#include "plans.h"

using namespace faceattr;

namespace {

using Arrays = std::vector<std::vector<float>>;

struct Batch {
  explicit Batch(std::int64_t images) : images(images) {
    for (std::int64_t i = 0; i < images * 32 * 32 * 3; ++i)
      u8.push_back(static_cast<std::uint8_t>((i * 2654435761u) >> 13));
  }
  std::int64_t images;
  std::vector<std::uint8_t> u8;
};

Arrays allocate(const Engine& engine, std::int64_t images) {
  Arrays arrays;
  for (const Output& output : engine.executor().outputs()) {
    arrays.emplace_back(images * engine.executor().output_floats(output), -1.0f);
  }
  return arrays;
}

Arrays run(const Engine& engine, const cpu::Pixels& pixels, std::int64_t images) {
  Arrays arrays = allocate(engine, images);
  std::vector<float*> pointers;
  for (auto& array : arrays) pointers.push_back(array.data());
  engine.run(pixels, images, pointers.data());
  return arrays;
}

Arrays run(const Engine& engine, const Batch& batch) { return run(engine, {batch.u8.data(), nullptr}, batch.images); }

bool same_bits(const Arrays& a, const Arrays& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  }
  return a.size() == b.size();
}

double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::numeric_limits<double>::infinity();
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const cpu::IsaLevel& level : cpu::isa_levels()) {
    if ((level.features & ~cpu::detected_features()) == 0) names.push_back(level.name);
  }
  return names;
}

}  // namespace

FA_TEST(bits_do_not_depend_on_threads_or_batch) {
  for (const std::string& isa : levels()) {
    for (int width : {6, 16, 40}) {
      for (const Plan& plan : {test::small_plan(width), test::quantized_plan(width)}) {
        const Batch batch(70);  // more than a chunk
        const Engine one(plan, isa, 1);
        const Arrays expected = run(one, batch);
        for (int threads : {2, 3}) {
          const Engine engine(plan, isa, threads);
          FA_CHECK_MESSAGE(same_bits(run(engine, batch), expected), isa);
          for (std::int64_t images : {1, 2, 5}) {  // the last images, in a smaller batch
            const std::int64_t first = batch.images - images;
            const Arrays got = run(engine, {batch.u8.data() + first * 32 * 32 * 3, nullptr}, images);
            for (std::size_t o = 0; o < got.size(); ++o) {
              const std::vector<float> tail(expected[o].end() - got[o].size(), expected[o].end());
              FA_CHECK_MESSAGE(got[o] == tail, isa);
            }
          }
        }
      }
    }
  }
}

// The maps of a plan in integers, bit for bit; its heads are floats.
FA_TEST(integers_are_the_same_on_every_instruction_set) {
  const Batch batch(2);
  for (int width : {6, 17, 40}) {
    const Arrays scalar = run(Engine(test::quantized_plan(width), "scalar", 1), batch);
    for (const std::string& isa : levels()) {
      const Arrays got = run(Engine(test::quantized_plan(width), isa, 1), batch);
      FA_CHECK_MESSAGE(relative_error(got[0], scalar[0]) < 2e-6, isa);
      FA_CHECK_MESSAGE(same_bits({got.begin() + 1, got.end()}, {scalar.begin() + 1, scalar.end()}), isa);
      for (std::size_t o = 1; o < got.size(); ++o) {  // and say something
        const auto [low, high] = std::minmax_element(got[o].begin(), got[o].end());
        FA_CHECK(*high - *low > 3);
      }
    }
  }
}

FA_TEST(winograd_gives_the_same_integers) {
  for (int side : {8, 9, 54}) {  // the last one goes strip by strip in tiles of 4x4
    Batch batch(side < 54 ? 3 : 1);
    batch.u8.resize(batch.images * 16 * side * side * 3);
    for (std::size_t i = 0; i < batch.u8.size(); ++i) batch.u8[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
    for (const std::string& isa : levels()) {
      for (int width : side < 54 ? std::vector<int>{6, 17, 40, 72} : std::vector<int>{80}) {
        const Plan plan = test::quantized_plan(width, side);
        const Arrays expected = run(Engine(plan, isa, 1), batch);
        for (int tile : {2, 4}) {
          const Plan tiles = test::transformed(plan, tile);
          for (int threads : {1, 2, 3}) {
            FA_CHECK_MESSAGE(same_bits(run(Engine(tiles, isa, threads), batch), expected), isa);
          }
        }
      }
    }
  }
}

// A map of zeros and 255s, and weights of up to 127 as many as tiles of 4x4 may have.
FA_TEST(extreme_integers_keep_their_sums) {
  const int side = 14, channels = 115, out = 40;
  Plan plan;
  plan.pixels = 4 * side;
  plan.tensors = {{side, side, channels, Format::kInteger, std::vector<float>(channels, 1.0f)}, {side, side, out}};
  std::vector<std::int8_t> stem(static_cast<std::size_t>(channels) * 147, 0);
  for (int o = 0; o < channels; ++o) stem[o * 147 + 24 * 3 + o % 3] = o % 2 == 0 ? 1 : -1;
  std::vector<std::int32_t> bias(channels, -255);
  for (int o = 1; o < channels; o += 2) bias[o] = 100;
  plan.phases.push_back(QuantizedStemPhase{0, stem, bias, std::vector<float>(channels, 255.0f)});
  std::vector<std::int8_t> weight = test::random_bytes(static_cast<std::size_t>(out) * 9 * channels, 3);
  for (int i = 0; i < 9 * channels; ++i) {
    weight[i] = 127;
    weight[9 * channels + i] = -127;
    weight[2 * 9 * channels + i] = i / channels % 2 == 0 ? 127 : -127;
    weight[3 * 9 * channels + i] = i / channels / 3 % 2 == 0 ? -127 : 127;
  }
  plan.phases.push_back(QuantizedConvPhase{1,
                                           {{0, 0, channels, 3, 1}},
                                           weight,
                                           std::vector<std::int32_t>(out, 0),
                                           std::vector<float>(out, 1.0f),
                                           false,
                                           -1,
                                           -1,
                                           {}});
  plan.outputs = {{1, 0, out}, {0, 0, channels}};
  Batch batch(2);
  batch.u8.resize(batch.images * plan.pixels * plan.pixels * 3);
  for (std::size_t i = 0; i < batch.u8.size(); ++i) {
    const bool first = i < batch.u8.size() / 2;  // all of it, then a random pattern
    batch.u8[i] = first || (i * 2654435761u >> 16) % 2 == 0 ? 255 : 0;
  }
  for (const std::string& isa : levels()) {
    const Arrays expected = run(Engine(plan, isa, 1), batch);
    const auto [low, high] = std::minmax_element(expected[0].begin(), expected[0].end());
    FA_CHECK(*low < -16e6f && *high > 16e6f);
    FA_CHECK(std::count(expected[1].begin(), expected[1].end(), 255.0f) > 1000);
    FA_CHECK(std::count(expected[1].begin(), expected[1].end(), 0.0f) > 1000);
    for (int tile : {2, 4}) {
      FA_CHECK_MESSAGE(same_bits(run(Engine(test::transformed(plan, tile), isa, 1), batch), expected), isa);
    }
  }
}

FA_TEST(instruction_sets_agree) {
  const Batch batch(2);
  const Arrays scalar = run(Engine(test::small_plan(24), "scalar", 1), batch);
  for (const std::string& isa : levels()) {
    const Arrays got = run(Engine(test::small_plan(24), isa, 1), batch);
    for (std::size_t o = 0; o < got.size(); ++o) {
      FA_CHECK_MESSAGE(relative_error(got[o], scalar[o]) < 2e-6, isa);
    }
  }
}

FA_TEST(winograd_agrees_with_direct) {
  for (const std::string& isa : levels()) {
    for (int width : {5, 16, 72}) {
      Batch batch(3);
      batch.u8.resize(batch.images * 120 * 120 * 3);
      for (std::size_t i = 0; i < batch.u8.size(); ++i)
        batch.u8[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
      const Arrays direct = run(Engine(test::winograd_plan(width, 0), isa, 1), batch);
      for (int tile : {2, 4, 5}) {
        const Plan plan = test::winograd_plan(width, tile);
        const Arrays winograd = run(Engine(plan, isa, 1), batch);
        for (int threads : {2, 3, 5}) {
          FA_CHECK_MESSAGE(same_bits(run(Engine(plan, isa, threads), batch), winograd), isa);
        }
        for (std::size_t o = 0; o < direct.size(); ++o) {
          FA_CHECK_MESSAGE(relative_error(winograd[o], direct[o]) < 3e-6,
                           isa + ", F(" + std::to_string(tile) + "), output " + std::to_string(o));
        }
      }
    }
  }
}

// Sums of float32 in another order; points rounded to 8 bits, which costs a map about 1 % in F(2x2), 2 % in F(5x5).
FA_TEST(winograd_of_bfloat16_agrees_with_direct) {
  Batch batch(3);
  batch.u8.resize(batch.images * 120 * 120 * 3);
  for (std::size_t i = 0; i < batch.u8.size(); ++i) batch.u8[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
  for (const std::string& isa : levels()) {
    for (int width : {5, 16, 72}) {
      const Arrays direct = run(Engine(test::bfloat16_plan(width, 0), isa, 1), batch);
      for (int tile : {2, 4, 5}) {
        const Plan plan = test::bfloat16_plan(width, tile);
        const Arrays winograd = run(Engine(plan, isa, 1), batch);
        for (int threads : {2, 3, 5}) {
          FA_CHECK_MESSAGE(same_bits(run(Engine(plan, isa, threads), batch), winograd), isa);
        }
        for (std::size_t o = 0; o < direct.size(); ++o) {
          const double error = relative_error(winograd[o], direct[o]);
          FA_CHECK_MESSAGE(error < 0.03 && error > 1e-4, isa + ", F(" + std::to_string(tile) + "), output " +
                                                             std::to_string(o) + ": " + std::to_string(error));
        }
      }
    }
  }
}

namespace {

// Each image alone has the bits that it has in a batch, whose groups depend on the number of threads.
void check_groups(const Plan& plan, int first_grouped, std::int64_t images) {
  const std::int64_t pixels = 120 * 120 * 3;
  std::vector<std::uint8_t> u8(images * pixels);
  for (std::size_t i = 0; i < u8.size(); ++i) u8[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
  for (const std::string& isa : levels()) {
    const Engine one(plan, isa, 1);
    FA_CHECK(one.executor().first_grouped() == first_grouped && one.executor().group_images() == 4);
    const Arrays expected = run(one, {u8.data(), nullptr}, images);
    for (std::int64_t i = 0; i < images; ++i) {
      const Arrays alone = run(one, {u8.data() + i * pixels, nullptr}, 1);
      for (std::size_t o = 0; o < alone.size(); ++o) {
        const auto begin = expected[o].begin() + i * alone[o].size();
        FA_CHECK_MESSAGE(std::equal(alone[o].begin(), alone[o].end(), begin), isa + ", image " + std::to_string(i));
      }
    }
    for (int threads : {2, 3}) {
      FA_CHECK(same_bits(run(Engine(plan, isa, threads), {u8.data(), nullptr}, images), expected));
    }
  }
}

}  // namespace

FA_TEST(groups_of_images_keep_the_bits_of_bfloat16) {
  // The first convolution of stride 2: 194 k floats of weights, 65 k of maps.
  check_groups(test::bfloat16_plan(72, 4), 5, 7);
}

FA_TEST(groups_of_images_keep_the_bits) {
  // The first convolution of stride 2 has 378 k weights, 146 k values in its maps, and goes strip by strip.
  // 11 images: one thread takes 3, 4 and 4; two take 2 and 3 each, one together.
  check_groups(test::winograd_plan(72, 4), 4, 11);
}

namespace {

// The same plan with its stem by tiles.
Plan by_tiles(Plan plan) {
  const auto& stem = std::get<StemPhase>(plan.phases[0]);
  plan.phases[0] =
      WinogradStemPhase{stem.dst, test::transform_stem(stem.weight, static_cast<int>(stem.bias.size())), stem.bias};
  return plan;
}

}  // namespace

FA_TEST(uint8_and_float_pixels_agree) {
  for (Plan plan : {test::small_plan(12), by_tiles(test::small_plan(12))}) {
    const Batch batch(3);
    std::vector<float> planes(batch.u8.size());
    for (std::int64_t i = 0; i < batch.images; ++i) {
      for (int p = 0; p < 32 * 32; ++p) {
        for (int c = 0; c < 3; ++c) {
          const float pixel = batch.u8[(i * 32 * 32 + p) * 3 + c];
          planes[(i * 3 + c) * 32 * 32 + p] = (pixel - plan.mean[c]) / plan.scale[c];
        }
      }
    }
    for (const std::string& isa : levels()) {
      const Engine engine(plan, isa, 2);
      const Arrays a = run(engine, batch), b = run(engine, {nullptr, planes.data()}, batch.images);
      for (std::size_t o = 0; o < a.size(); ++o) {
        FA_CHECK_MESSAGE(relative_error(a[o], b[o]) < 2e-6, isa);
      }
    }
  }
}

FA_TEST(uint8_and_float_pixels_become_the_same_integers) {
  const Plan plan = test::quantized_plan(12);  // its mean is a multiple of one half
  const Batch batch(3);
  std::vector<float> planes(batch.u8.size());
  for (std::size_t i = 0; i < planes.size(); ++i) {
    const std::size_t image = i / (3 * 1024), c = i / 1024 % 3, p = i % 1024;
    planes[i] = (static_cast<float>(batch.u8[(image * 1024 + p) * 3 + c]) - plan.mean[c]) / plan.scale[c];
  }
  const Engine engine(plan, "", 2);
  FA_CHECK(same_bits(run(engine, batch), run(engine, {nullptr, planes.data()}, batch.images)));
}

FA_TEST(a_non_finite_pixel_spoils_its_own_image_alone) {
  for (int threads : {1, 2}) {
    for (const Plan& plan : {test::small_plan(12), by_tiles(test::small_plan(12)), test::quantized_plan(12)}) {
      const Engine engine(plan, "", threads);
      const std::int64_t images = 5, pixels = 3 * 32 * 32;
      std::vector<float> planes = test::random_values(images * pixels, 3);
      const Arrays clean = run(engine, {nullptr, planes.data()}, images);
      planes[2 * pixels + 700] = std::numeric_limits<float>::quiet_NaN();
      planes[4 * pixels + pixels - 1] = std::numeric_limits<float>::infinity();
      const Arrays got = run(engine, {nullptr, planes.data()}, images);
      for (std::size_t o = 0; o < got.size(); ++o) {
        const std::size_t size = got[o].size() / images;
        for (std::size_t i = 0; i < got[o].size(); ++i) {
          const bool bad = i / size == 2 || i / size == 4;
          FA_CHECK(bad ? std::isnan(got[o][i]) : got[o][i] == clean[o][i]);
        }
      }
    }
  }
}

FA_TEST(callers_share_one_engine) {
  const Engine engine(test::small_plan(16), "", 2);
  const Batch batch(9);
  const Arrays expected = run(engine, batch);
  std::vector<std::thread> callers;
  std::atomic<int> different{0};
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) different.fetch_add(same_bits(run(engine, batch), expected) ? 0 : 1);
    });
  }
  for (std::thread& caller : callers) caller.join();
  FA_CHECK(different.load() == 0);
}

// A 3x3 that reads the stem's output reads zeros around it, whatever the arena held before.
FA_TEST(the_border_of_a_stem_is_zero) {
  Plan plan;
  plan.pixels = 32;
  plan.tensors = {{8, 8, 3}, {8, 8, 40}, {8, 8, 2}, {1, 1, 2}};
  plan.phases.push_back(StemPhase{0, test::random_values(3 * 147, 1), test::random_values(3, 2)});
  plan.phases.push_back(
      SegmentedConvPhase{1, {{0, 0, 3, 1, 1}}, test::random_values(120, 3), test::random_values(40, 4), false, -1});
  plan.phases.push_back(
      SegmentedConvPhase{2, {{1, 0, 40, 1, 1}}, test::random_values(80, 5), test::random_values(2, 6), false, -1});
  plan.phases.push_back(ShiftedMeansPhase{3, 2, 1, 1, 0, 2});
  plan.outputs = {{3, 0, 2}, {2, 0, 2}};
  Plan read_by_3x3 = plan;  // the centre tap alone is not zero: the same result, unless the border is not zero
  auto& conv = std::get<SegmentedConvPhase>(read_by_3x3.phases[1]);
  conv.segments[0].kernel = 3;
  std::vector<float> weight(40 * 27, 0.0f);
  for (int o = 0; o < 40; ++o) {
    for (int c = 0; c < 3; ++c) {
      weight[o * 27 + 4 * 3 + c] = conv.weight[o * 3 + c];
      weight[o * 27 + c] = 1.0f;  // and the first tap, which the border feeds at the top and the left
    }
  }
  conv.weight = weight;
  const Batch batch(2);
  for (const Plan& read : {read_by_3x3, by_tiles(read_by_3x3)}) {
    const Engine engine(read, "", 1);
    const Arrays first = run(engine, batch);
    std::vector<float> spoiled(2 * 3 * 32 * 32, std::numeric_limits<float>::infinity());
    run(engine, {nullptr, spoiled.data()}, 2);  // leaves NaN in the arena
    FA_CHECK(same_bits(run(engine, batch), first));
    for (float value : first[0]) FA_CHECK(std::isfinite(value));
  }
}

FA_TEST(no_images_is_no_work) {
  const Engine engine(test::small_plan(4), "", 2);
  FA_CHECK(run(engine, {nullptr, nullptr}, 0)[0].empty());
}

FA_TEST(profile_gives_the_same_bits) {
  for (int threads : {1, 2, 3}) {
    const Engine engine(test::small_plan(16), "", threads);
    for (int images : {1, 3, 20, 70}) {  // fewer than threads, groups and a rest, more than one chunk
      const Batch batch(images);
      const Arrays expected = run(engine, batch);
      for (bool batched : {false, true}) {
        Arrays arrays = allocate(engine, batch.images);
        std::vector<float*> pointers;
        for (auto& array : arrays) pointers.push_back(array.data());
        const std::vector<double> seconds =
            engine.profile({batch.u8.data(), nullptr}, batch.images, pointers.data(), batched);
        FA_CHECK(same_bits(arrays, expected));
        FA_CHECK(seconds.size() == 9);
        for (double s : seconds) FA_CHECK(s > 0 && s < 10);
      }
    }
  }
}

#if !defined(__SANITIZE_THREAD__)  // the sanitizer's own runtime does not survive a fork of a threaded process
FA_TEST(a_forked_child_computes_the_same_bits) {
  const Engine engine(test::small_plan(16), "", 2);
  const Batch batch(5);
  const Arrays expected = run(engine, batch);
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;  // inside calls while the process forks
  for (int c = 0; c < 2; ++c) {
    callers.emplace_back([&] {
      while (!stop.load()) run(engine, batch);
    });
  }
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);
      _exit(same_bits(run(engine, batch), expected) ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    FA_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  stop.store(true);
  for (std::thread& caller : callers) caller.join();
}
#endif

FA_TEST(impossible_requests_are_refused) {
  FA_CHECK_THROWS(cpu::DeviceError, Engine(test::small_plan(4), "avx9", 1));
  if ((cpu::detected_features() & cpu::kAvx512) == 0) {
    FA_CHECK_THROWS(cpu::DeviceError, Engine(test::small_plan(4), "avx512", 1));
  }
  Plan broken = test::small_plan(4);
  broken.phases.pop_back();
  FA_CHECK_THROWS(std::invalid_argument, Engine(broken, "", 1));
}
