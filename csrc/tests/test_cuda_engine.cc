// The engine of CUDA on the emulated devices: memory, chunks, replays and callers; numbers are test_cuda_program's.
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"
#include "cuda/engine.h"
#include "cuda/workspace.h"
#include "engine.h"
#include "plans.h"

using namespace faceattr;

namespace {

constexpr int kPixelFloats = 3 * 32 * 32;

std::vector<float> image_floats(int images) { return test::random_values(images * kPixelFloats, 7, 1.5f); }

// Outputs of `images` images, one vector each.
struct Results {
  Results(const std::vector<Output>& outputs, const Plan& plan, int images) {
    for (const Output& output : outputs) {
      const TensorShape& shape = plan.tensors[output.tensor];
      values.emplace_back(static_cast<std::size_t>(images) * shape.height * shape.width * output.count, -1.0f);
    }
  }
  std::vector<float*> pointers() {
    std::vector<float*> all;
    for (std::vector<float>& value : values) all.push_back(value.data());
    return all;
  }
  std::vector<std::vector<float>> values;
};

Results on_cpu(const Plan& plan, const std::vector<float>& pixels, int images) {
  Results results(plan.outputs, plan, images);
  const Engine engine(plan, "", 1);
  cpu::Pixels input;
  input.f32 = pixels.data();
  engine.run(input, images, results.pointers().data());
  return results;
}

bool close(const Results& a, const Results& b) {
  for (std::size_t o = 0; o < a.values.size(); ++o) {
    for (std::size_t i = 0; i < a.values[o].size(); ++i) {
      if (!(std::fabs(a.values[o][i] - b.values[o][i]) < 1e-4f)) return false;
    }
  }
  return true;
}

Results read(const Plan& plan, const cuda::DeviceMemory& memory, const std::vector<std::size_t>& offsets, int images) {
  Results results(plan.outputs, plan, images);
  for (std::size_t o = 0; o < offsets.size(); ++o) {
    memory.read(results.values[o].data(), offsets[o], results.values[o].size() * sizeof(float));
  }
  return results;
}

}  // namespace

FA_TEST(pixels_of_the_host_in_any_number) {
  const Plan plan = test::small_plan(8);
  const cuda::CudaEngine engine(plan, 0, cuda::Kernels::kBest);
  for (const int images : {1, 3, 1, 3, 3, 130, 270}) {  // more than are staged at a time, and than run at once
    const std::vector<float> pixels = image_floats(images);
    Results found(plan.outputs, plan, images);
    engine.run_host({pixels.data(), false}, images, found.pointers());
    FA_CHECK_MESSAGE(close(found, on_cpu(plan, pixels, images)), std::to_string(images));
  }
  engine.run_host({nullptr, true}, 0, Results(plan.outputs, plan, 0).pointers());
}

FA_TEST(a_batch_is_replayed_with_other_pointers) {
  const Plan plan = test::small_plan(8);
  const cuda::CudaEngine engine(plan, 1, cuda::Kernels::kPortable);
  std::vector<std::shared_ptr<cuda::DeviceMemory>> kept;
  for (int call = 0; call < 4; ++call) {
    std::vector<float> pixels = test::random_values(2 * kPixelFloats, 100 + call, 1.0f);
    const auto uploaded = engine.upload(pixels.data(), pixels.size() * sizeof(float), nullptr);
    std::vector<std::size_t> offsets;
    kept.push_back(engine.run({uploaded->data(), false}, 2, &offsets, nullptr));
    FA_CHECK(kept.back()->device() == 1 && cuda::device_of(kept.back()->data()) == 1);
    for (const std::size_t offset : offsets) FA_CHECK(offset % 256 == 0);
    FA_CHECK_MESSAGE(close(read(plan, *kept.back(), offsets, 2), on_cpu(plan, pixels, 2)), std::to_string(call));
  }
}

FA_TEST(callers_at_once_do_not_share_memory) {
  const Plan plan = test::small_plan(8);
  const cuda::CudaEngine engine(plan, 0, cuda::Kernels::kBest);
  std::vector<std::thread> callers;
  std::vector<int> good(4, 0);
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      const std::vector<float> pixels = test::random_values(3 * kPixelFloats, caller, 1.0f);
      const Results expected = on_cpu(plan, pixels, 3);
      for (int round = 0; round < 4; ++round) {
        Results found(plan.outputs, plan, 3);
        engine.run_host({pixels.data(), false}, 3, found.pointers());
        good[caller] += close(found, expected);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : good) FA_CHECK(count == 4);
}

FA_TEST(workspaces_go_to_one_call_at_a_time) {
  const Plan plan = test::small_plan(8);
  const cuda::Program program(plan, cuda::Target{});
  cuda::Workspaces workspaces(program);
  const cuda::OnDevice on(0);
  auto first = workspaces.lease(3, nullptr);
  auto second = workspaces.lease(3, nullptr);
  FA_CHECK(first->images >= 3 && first->memory.data() != second->memory.data());
  const std::byte* const address = second->memory.data();
  workspaces.give_back(std::move(second), nullptr);
  FA_CHECK(workspaces.lease(2, nullptr)->memory.data() == address);
  FA_CHECK(workspaces.lease(program.max_images(), nullptr)->images == program.max_images());
  const auto& kept = workspaces.keep(1);
  FA_CHECK(workspaces.lease(1, nullptr)->memory.data() != kept.memory.data());
}

FA_TEST(memory_goes_back_to_its_stream) {
  const auto pool = std::make_shared<cuda::MemoryPool>(0);
  cuda::Stream stream = reinterpret_cast<cuda::Stream>(16), other = reinterpret_cast<cuda::Stream>(32);
  const auto address = [&](std::size_t bytes, cuda::Stream on) { return pool->allocate(bytes, on)->data(); };
  const std::byte* const first = address(1000, stream);
  FA_CHECK(address(1000, stream) == first);
  FA_CHECK(address(600, stream) == first);
  FA_CHECK(address(400, stream) != first);  // less than half of it
  FA_CHECK(address(1000, other) != first);
  const auto held = pool->allocate(1000, stream);
  FA_CHECK(address(1000, stream) != held->data());
}

FA_TEST(strided_pixels_become_contiguous) {
  const cuda::CudaEngine engine(test::small_plan(8), 0, cuda::Kernels::kBest);
  const std::vector<float> values = test::random_values(2 * 3 * 4 * 5, 3);
  const auto uploaded = engine.upload(values.data(), values.size() * sizeof(float), nullptr);
  // Axes 0 and 2 backwards, 1 and 3 swapped.
  const auto* begin = reinterpret_cast<const float*>(uploaded->data()) + 60 + 3 * 5;
  const auto copied = engine.make_contiguous(begin, 4, {2, 5, 4, 3}, {-60, 1, -5, 20}, nullptr);
  std::vector<float> found(values.size());
  copied->read(found.data(), 0, found.size() * sizeof(float));
  bool equal = true;
  for (int i = 0, a = 0; a < 2; ++a) {
    for (int b = 0; b < 5; ++b) {
      for (int c = 0; c < 4; ++c) {
        for (int d = 0; d < 3; ++d, ++i) equal &= found[i] == values[(1 - a) * 60 + d * 20 + (3 - c) * 5 + b];
      }
    }
  }
  FA_CHECK(equal);
  FA_CHECK_THROWS(std::invalid_argument, engine.make_contiguous(begin, 4, {1}, {1}, nullptr));
}

FA_TEST(kernels_that_the_device_lacks) {
  FA_CHECK_THROWS(cuda::CudaError, cuda::CudaEngine(test::small_plan(8), 0, cuda::Kernels::kHopper));
  FA_CHECK(cuda::CudaEngine(test::small_plan(8), 1, cuda::Kernels::kHopper).hopper());
  FA_CHECK(!cuda::CudaEngine(test::small_plan(8), 1, cuda::Kernels::kPortable).hopper());
  Plan flawed = test::small_plan(8);
  flawed.phases.clear();
  FA_CHECK_THROWS(std::invalid_argument, cuda::CudaEngine(flawed, 0, cuda::Kernels::kBest));
}
