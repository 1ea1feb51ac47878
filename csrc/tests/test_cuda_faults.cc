// Mistakes that kernels make, planted one by one: the emulator must catch each of them, and say which.
#include <cstring>
#include <random>

#include "check.h"
#include "cuda_kernels_sm90.h"

namespace cuda = faceattr::cuda;
using cuda::emulator::GlobalArray;
using namespace cuda::test;

namespace {

constexpr uint32_t kSeeds = 8;

// What the launch at one seed says; empty where it says nothing.
template <class Kernel>
std::string message(uint32_t seed, const cuda::LaunchConfig& config, const typename Kernel::Params& params) {
  cuda::emulator::options() = {seed, 2};
  try {
    cuda::launch<Kernel>(config, params);
    return "";
  } catch (const cuda::LaunchError& error) {
    return error.what();
  }
}

void expect_caught(const std::string& said, const std::string& expected) {
  FA_CHECK_MESSAGE(said.find(expected) != std::string::npos, "expected '" + expected + "', got '" + said + "'");
}

enum class Mistake {
  kSharedBounds,
  kSharedAlignment,
  kGlobalRead,
  kGlobalWrite,
  kGlobalAlignment,
  kCopySource,
  kDivergentCollective,
  kDivergentVariant,
  kMissingLane,
  kMissingThread,
  kBarrierCount,
  kCopyNotAwaited,
  kBeforeDependency,
  kNoMbarrier,
  kTooManyArrivals,
  kRegisters,
};

// Two warps where nothing else is said, 64 bytes of shared and 32 floats of global memory.
template <Mistake M>
struct Wrong {
  static constexpr const char* kName = "wrong_test";
  static constexpr int kMaxThreads = 256, kMinBlocks = 1;
  struct Params {
    float* data;
  };
  static void run(const Params& params) {
    const int thread = cuda::thread_index();
    const bool one = thread == 5;
    const cuda::SharedAddress base = cuda::shared_base();
    uint32_t registers[1], pair[2];
    switch (M) {
      case Mistake::kSharedBounds:
        if (one) cuda::store_shared(base + 64, 1.0f);
        break;
      case Mistake::kSharedAlignment:
        if (one) cuda::load_shared<float>(base + 2);
        break;
      case Mistake::kGlobalRead:
        if (one) cuda::load_global(params.data + 32);
        break;
      case Mistake::kGlobalWrite:
        if (one) cuda::store_global(params.data - 1, 1.0f);
        break;
      case Mistake::kGlobalAlignment:
        if (one) cuda::load_global(reinterpret_cast<cuda::Vec16*>(params.data + 2));
        break;
      case Mistake::kCopySource:
        cuda::copy_async_16(base, params.data + 32, one);
        cuda::copy_async_commit();
        cuda::copy_async_wait<0>();
        break;
      case Mistake::kDivergentCollective:
        if (one) {
          cuda::sync_warp();
        } else {
          cuda::shuffle_xor(1, 1);
        }
        break;
      case Mistake::kDivergentVariant:
        if (one) {
          cuda::load_matrix(base, registers);
        } else {
          cuda::load_matrix(base, pair);
        }
        break;
      case Mistake::kMissingLane:
        if (!one) cuda::sync_warp();
        break;
      case Mistake::kMissingThread:
        if (!one) cuda::sync_block();
        break;
      case Mistake::kBarrierCount:
        cuda::named_barrier_sync(2, thread < 64 ? 128 : 96);
        break;
      case Mistake::kCopyNotAwaited:
        if (one) {
          cuda::copy_async_16(base, params.data, true);
          cuda::copy_async_commit();
          cuda::copy_async_wait<1>();
        }
        break;
      case Mistake::kBeforeDependency:
        if (one) cuda::load_global(params.data);
        break;
      case Mistake::kNoMbarrier:
        if (one) cuda::mbarrier_wait(base, 0);
        break;
      case Mistake::kTooManyArrivals:
        if (one) {
          cuda::mbarrier_init(base, 1);
          cuda::mbarrier_arrive_expect(base, 16);
          cuda::mbarrier_arrive(base);
        }
        break;
      case Mistake::kRegisters:
        cuda::registers_increase<248>();  // 256 threads * 248 <= 65536
        cuda::registers_increase<240>();
        break;
    }
  }
};

template <Mistake M>
void check_mistake(const std::string& expected) {
  GlobalArray<float> data(32);
  cuda::LaunchConfig config;
  config.threads = M == Mistake::kRegisters ? 256 : M == Mistake::kBarrierCount ? 128 : 64;
  config.shared_bytes = 64;
  config.dependent = M == Mistake::kBeforeDependency;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const std::string said = message<Wrong<M>>(seed, config, {data.data()});
    expect_caught(said, expected);
    expect_caught(said, "kernel wrong_test");
  }
}

FA_TEST(memory_is_checked) {
  check_mistake<Mistake::kSharedBounds>("thread 5: store_shared of 4 bytes at shared_base() + 64: outside");
  check_mistake<Mistake::kSharedAlignment>("thread 5: load_shared of 4 bytes at shared_base() + 2: not aligned to 4");
  check_mistake<Mistake::kGlobalRead>("thread 5: load_global of 4 bytes");
  check_mistake<Mistake::kGlobalWrite>("thread 5: store_global of 4 bytes");
  check_mistake<Mistake::kGlobalAlignment>("not aligned to 16");
  check_mistake<Mistake::kCopySource>("copy_async_16 of 16 bytes");
  check_mistake<Mistake::kCopyNotAwaited>("thread 5: ends without having waited for its copy_async");
  check_mistake<Mistake::kBeforeDependency>("thread 5: load_global before dependency_wait");
}

FA_TEST(divergence_is_caught) {
  check_mistake<Mistake::kDivergentCollective>("while others of its warp wait in s");
  check_mistake<Mistake::kDivergentVariant>("while others of its warp wait in load_matrix");
  check_mistake<Mistake::kMissingLane>("kernel wrong_test");
  check_mistake<Mistake::kMissingThread>("deadlock\n  block (0, 0, 0): 63 threads from thread 0 on wait in sync_block");
  check_mistake<Mistake::kBarrierCount>("barrier 2 with");
  check_mistake<Mistake::kNoMbarrier>("which nobody has initialised");
  check_mistake<Mistake::kTooManyArrivals>("gets more than the 1 arrivals of a phase");
  check_mistake<Mistake::kRegisters>("registers_increase to 240 where a thread has 248");
}

FA_TEST(launches_are_checked) {
  using Kernel = Wrong<Mistake::kSharedBounds>;
  GlobalArray<float> data(32);
  cuda::LaunchConfig config;
  config.threads = 48;
  expect_caught(message<Kernel>(1, config, {data.data()}), "threads must be a multiple of 32 up to 256, got 48");
  config.threads = 512;
  expect_caught(message<Kernel>(1, config, {data.data()}), "up to 256, got 512");
  config.threads = 64;
  config.shared_bytes = 232449;
  expect_caught(message<Kernel>(1, config, {data.data()}), "shared_bytes must be at most 232448, got 232449");
  config.shared_bytes = 64;
  config.grid = {3, 1, 1};
  config.cluster = 2;
  expect_caught(message<Kernel>(1, config, {data.data()}), "multiple of the cluster's 2, got 3");
}

// A launch after a fault starts afresh: nothing that the fault left behind is seen.
FA_TEST(machines_survive_faults) {
  check_mistake<Mistake::kMissingThread>("deadlock");
  GlobalArray<int> dst(32);
  cuda::LaunchConfig config;
  config.threads = 64;
  config.shared_bytes = 128;
  FA_CHECK(message<Handover>(1, config, {dst.data()}).empty());
  for (int i = 0; i < 32; ++i) FA_CHECK(dst[static_cast<size_t>(i)] == i * i);
}

// Without the barrier a neighbour's chunk is read before it has landed, or after the next overwrote it.
FA_TEST(missing_barriers_give_wrong_values) {
  constexpr int kChunks = 10;
  GlobalArray<cuda::Vec16> src(kChunks * 64), dst(kChunks * 64);
  std::mt19937 generator(1);
  for (size_t i = 0; i < src.size(); ++i) {
    for (uint32_t* word : {&src[i].x, &src[i].y, &src[i].z, &src[i].w}) *word = static_cast<uint32_t>(generator());
  }
  cuda::LaunchConfig config;
  config.threads = 64;
  config.shared_bytes = 3 * 64 * 16;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    FA_CHECK(message<Ring<false>>(seed, config, {src.data(), dst.data(), kChunks}).empty());
    int wrong = 0;
    for (size_t i = 0; i < src.size(); ++i) {
      const cuda::Vec16 zero = {0, 0, 0, 0};
      wrong += std::memcmp(&dst[i], (i / 64 + i % 64) % 2 == 0 ? &src[i] : &zero, 16) != 0;
    }
    FA_CHECK(wrong > 0);
  }
}

// At each seed, what the launch says, "wrong values" where it says nothing about them, or nothing.
template <Fault F>
std::vector<std::string> pipeline_messages() {
  constexpr int kSteps = 12;
  GlobalArray<uint8_t> weights(kSteps * Pipeline<F>::kSlotBytes);
  std::memset(weights.data(), 0x3c, weights.size());
  GlobalArray<float> dst(2 * 128 * 32);
  cuda::LaunchConfig config;
  config.grid = {2, 1, 1};
  config.threads = 384;
  config.cluster = 2;
  config.shared_bytes = Pipeline<F>::kSharedBytes;
  const float expected = cuda::from_bits<cuda::Float16>(0x3c3c) * 16 * kSteps;  // exact, and for the second block twice
  std::vector<std::string> said;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    said.push_back(message<Pipeline<F>>(seed, config, {weights.data(), dst.data(), kSteps}));
    if (!said.back().empty()) continue;
    for (size_t i = 0; i < dst.size(); ++i) {
      if (dst[i] != expected * static_cast<float>(1 + i / (128 * 32))) said.back() = "wrong values";
    }
  }
  return said;
}

FA_TEST(pipelines_without_fault_say_nothing) {
  for (const std::string& said : pipeline_messages<Fault::kNone>()) FA_CHECK_MESSAGE(said.empty(), said);
}

FA_TEST(pipeline_faults_are_caught_at_every_seed) {
  for (const std::string& said : pipeline_messages<Fault::kNoFence>()) {
    expect_caught(said, "without a fence_async after it");
  }
  for (const std::string& said : pipeline_messages<Fault::kWrongCount>()) {
    expect_caught(said, "deadlock");
    expect_caught(said, "wait in mbarrier_wait at shared_base() +");
  }
  for (const std::string& said : pipeline_messages<Fault::kNoWgmmaFence>())
    expect_caught(said, "before any wgmma_fence");
  for (const std::string& said : pipeline_messages<Fault::kDivergent>()) FA_CHECK(!said.empty());
}

// These depend on who gets ahead of whom: a quarter of the seeds must show them.
template <Fault F>
void check_race(std::initializer_list<const char*> expected) {
  uint32_t caught = 0;
  for (const std::string& said : pipeline_messages<F>()) {
    if (said.empty()) continue;
    bool known = false;
    for (const char* text : expected) known = known || said.find(text) != std::string::npos;
    FA_CHECK_MESSAGE(known, said);
    ++caught;
  }
  FA_CHECK_MESSAGE(caught >= kSeeds / 4, "caught at " + std::to_string(caught) + " seeds");
}

FA_TEST(pipeline_races_are_caught) {
  const char* const changed = "operands changed between its issue and wgmma_wait";
  check_race<Fault::kEarlyRelease>({changed});
  check_race<Fault::kNoWait>({changed, "wrong values", "deadlock", "more than the 1 arrivals of a phase"});
  check_race<Fault::kNoClusterSync>({"which nobody has initialised"});
}

}  // namespace
