// Kernels that do one thing as often as the device can: what cuda_rates.cu times. cuda_conformance.cc runs them too.
#pragma once

#include "cuda/launch.h"

namespace faceattr::cuda::test {

// Products of a tensor core from registers: eight sums per warp, as many as hide the latency of one. Every factor is 1:
// dst = Σ_j (j + 16 · iterations) over j < 8.
template <class T>
struct MmaRate {
  static constexpr const char* kName = "mma_rate";
  static constexpr int kMaxThreads = 256, kMinBlocks = 2;
  static constexpr int kSums = 8;
  static constexpr double kFlops = kSums * 2.0 * 16 * 8 * 16;  // per warp and iteration
  struct Params {
    float* dst;  // [threads of the grid]
    int iterations;
  };
  static FA_DEVICE void run(const Params& params) {
    const uint32_t ones = pack2<T>(1, 1);
    const uint32_t a[4] = {ones, ones, ones, ones}, b[2] = {ones, ones};
    float acc[kSums][4];
    FA_UNROLL
    for (int j = 0; j < kSums; ++j) {  // different sums: equal ones would be computed once
      for (int i = 0; i < 4; ++i) acc[j][i] = static_cast<float>(j);
    }
    FA_NO_UNROLL
    for (int i = 0; i < params.iterations; ++i) {
      FA_UNROLL
      for (int j = 0; j < kSums; ++j) mma_16x8x16<T>(acc[j], a, b);
    }
    float sum = 0;
    FA_UNROLL
    for (int j = 0; j < kSums; ++j) sum = add(sum, acc[j][0]);
    store_global(params.dst + block_index().x * block_threads() + thread_index(), sum);
  }
};

// All blocks together read `count` chunks, `rounds` times. In each round a block reads what another read before, so
// that its multiprocessor's cache is of no use.
struct ReadRate {
  static constexpr const char* kName = "read_rate";
  static constexpr int kMaxThreads = 512, kMinBlocks = 2;
  struct Params {
    const Vec16* src;
    uint32_t* dst;  // [threads of the grid]
    int count, rounds;
  };
  static FA_DEVICE void run(const Params& params) {
    const int blocks = grid_size().x, threads = block_threads(), step = blocks * threads;
    uint32_t all = 0;
    FA_NO_UNROLL
    for (int round = 0; round < params.rounds; ++round) {
      const int block = (block_index().x + 7 * round) % blocks;
      for (int i = block * threads + thread_index(); i < params.count; i += step) {
        const Vec16 chunk = load_global(params.src + i);
        all += chunk.x ^ chunk.y ^ chunk.z ^ chunk.w;
      }
    }
    store_global(params.dst + block_index().x * threads + thread_index(), all);
  }
};

// `rounds` barriers of a whole cooperative grid.
struct GridBarrierRate {
  static constexpr const char* kName = "grid_barrier_rate";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    uint32_t* counter;  // 0 at the start
    int rounds;
  };
  static FA_DEVICE void run(const Params& params) {
    const auto blocks = static_cast<uint32_t>(grid_size().x);
    if (thread_index() != 0) return;
    FA_NO_UNROLL
    for (int round = 1; round <= params.rounds; ++round) {
      add_release_global(params.counter, 1);
      while (load_acquire_global(params.counter) < blocks * static_cast<uint32_t>(round)) {
      }
    }
  }
};

// One of a chain of launches: does as good as nothing.
struct Link {
  static constexpr const char* kName = "link";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    uint32_t* dst;
  };
  static FA_DEVICE void run(const Params& params) {
    dependency_trigger();
    dependency_wait();
    if (thread_index() == 0) store_global(params.dst, 1u);
  }
};

}  // namespace faceattr::cuda::test
