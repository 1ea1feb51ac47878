// As cuda_rates.h, of Hopper.
#pragma once

#include "cuda/primitives_sm90.h"

namespace faceattr::cuda::test {

// Products of warpgroups from shared memory, in the layout without swizzle that the kernels use: two warpgroups, each
// with 64 rows of its own, four products of 32 bytes of K per iteration. Every factor is 1: dst = 64 · iterations.
template <class T, int N>
struct WgmmaRate {
  static constexpr const char* kName = "wgmma_rate";
  static constexpr int kMaxThreads = 256, kMinBlocks = 1;
  static constexpr int kSteps = 4;
  static constexpr uint32_t kABytes = 64 * 32, kBBytes = N * 32;  // of one step
  static constexpr uint32_t kSharedBytes = kSteps * (2 * kABytes + kBBytes);
  static constexpr double kFlops = kSteps * 2.0 * 64 * N * 16;  // per warpgroup and iteration
  struct Params {
    float* dst;  // [threads of the grid]
    int iterations;
  };
  static FA_DEVICE void run(const Params& params) {
    const uint32_t ones = pack2<T>(1, 1);
    for (uint32_t at = 16 * static_cast<uint32_t>(thread_index()); at < kSharedBytes; at += 16 * 256) {
      store_shared(shared_base() + at, Vec16{ones, ones, ones, ones});
    }
    fence_async();
    sync_block();
    const SharedAddress a = shared_base() + static_cast<uint32_t>(warpgroup_index()) * kSteps * kABytes,
                        b = shared_base() + 2 * kSteps * kABytes;
    float acc[N / 2];
    FA_UNROLL
    for (int i = 0; i < N / 2; ++i) acc[i] = 0;
    FA_NO_UNROLL
    for (int i = 0; i < params.iterations; ++i) {
      wgmma_fence();
      FA_UNROLL
      for (uint32_t step = 0; step < kSteps; ++step) {
        wgmma<T, N>(acc, matrix_descriptor(a + step * kABytes, 1024, 128),
                    matrix_descriptor(b + step * kBBytes, N * 16, 128), true);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the next products begin while these end
    }
    wgmma_wait<0>();
    store_global(params.dst + block_index().x * 256 + thread_index(), acc[0]);
  }
};

// `rounds` barriers of a cluster.
struct ClusterBarrierRate {
  static constexpr const char* kName = "cluster_barrier_rate";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    uint32_t* dst;  // [blocks]
    int rounds;
  };
  static FA_DEVICE void run(const Params& params) {
    FA_NO_UNROLL
    for (int round = 0; round < params.rounds; ++round) cluster_sync();
    if (thread_index() == 0) store_global(params.dst + block_index().x, cluster_rank());
  }
};

}  // namespace faceattr::cuda::test
