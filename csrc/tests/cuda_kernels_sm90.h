// Small kernels that together call every primitive of Hopper, as cuda_kernels.h does the portable ones.
#pragma once

#include "cuda/primitives_sm90.h"
#include "cuda_kernels.h"

namespace faceattr::cuda::test {

// acc = a b^T + a b'^T, where b' begins `shift_bytes` after b. Strides as the descriptors have them.
template <class T, int N>
struct Wgmma {
  static constexpr bool kIntegers = std::is_same_v<T, int8_t> || std::is_same_v<T, uint8_t>;
  using Acc = std::conditional_t<kIntegers, int32_t, float>;
  static constexpr const char* kName = "wgmma_test";
  static constexpr int kMaxThreads = 128, kMinBlocks = 1;
  struct Params {
    const Vec16* a;  // [2][64]
    const Vec16* b;  // b_bytes
    Acc* dst;        // [128][N / 2]
    uint32_t b_bytes, b_k_stride, shift_bytes;
  };
  static FA_DEVICE void run(const Params& params) {
    const int thread = thread_index();
    const SharedAddress barrier = shared_base(), a = barrier + 16, b = a + 2048;
    if (thread == 0) {
      mbarrier_init(barrier, 1);
      mbarrier_init_fence();
    }
    sync_block();
    if (thread == 0) {
      mbarrier_arrive_expect(barrier, 2048 + params.b_bytes);
      copy_bulk(a, params.a, 2048, barrier);
      copy_bulk(b, params.b, params.b_bytes, barrier);
    }
    mbarrier_wait(barrier, 0);
    Acc acc[N / 2];
    wgmma_fence();
    wgmma<T, N>(acc, matrix_descriptor(a, 1024, 128), matrix_descriptor(b, params.b_k_stride, 128), false);
    wgmma<T, N>(acc, matrix_descriptor(a, 1024, 128), matrix_descriptor(b + params.shift_bytes, params.b_k_stride, 128),
                true);
    wgmma_commit();
    wgmma_wait<0>();
    FA_UNROLL
    for (int i = 0; i < N / 2; ++i) store_global(params.dst + thread * (N / 2) + i, acc[i]);
  }
};

// Registers to matrices, plainly and transposed, by one, two and four.
struct StoreMatrix {
  static constexpr const char* kName = "store_matrix_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    const uint32_t* src;  // [4][32]
    Vec16* dst;           // [2][7][8] rows
  };
  template <int X>
  static FA_DEVICE void both(const Params& params, int at) {
    const int lane = lane_index();
    uint32_t registers[X];
    FA_UNROLL
    for (int i = 0; i < X; ++i) registers[i] = load_global(params.src + i * 32 + lane);
    const SharedAddress row = shared_base() + 16u * static_cast<uint32_t>(at * 8 + lane % (8 * X));
    store_matrix(row, registers);
    store_matrix_transposed(row + 7 * 128, registers);
  }
  static FA_DEVICE void run(const Params& params) {
    both<1>(params, 0);
    both<2>(params, 1);
    both<4>(params, 3);
    sync_warp();
    for (int i = lane_index(); i < 2 * 7 * 8; i += 32) {
      store_global(params.dst + i, load_shared<Vec16>(shared_base() + 16u * static_cast<uint32_t>(i)));
    }
  }
};

// Each block of the cluster adds 100 to what it reads from the next, and writes its own rank to the one after.
struct Cluster {
  static constexpr const char* kName = "cluster_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    uint32_t* dst;  // [blocks][2][32]
  };
  static FA_DEVICE void run(const Params& params) {
    const uint32_t rank = cluster_rank(), blocks = cluster_blocks(), lane = static_cast<uint32_t>(lane_index());
    const SharedAddress at = shared_base() + 4 * lane;
    store_shared(at, 1000 * rank + lane);
    cluster_sync();
    const uint32_t next = load_cluster<uint32_t>(at, (rank + 1) % blocks);
    store_cluster(at + 128, (rank + 2) % blocks, rank);
    cluster_arrive();
    uint32_t* const dst = params.dst + block_index().x * 64 + lane;
    store_global(dst, next + 100);
    cluster_wait();
    store_global(dst + 32, load_shared<uint32_t>(at + 128));
  }
};

enum class Fault { kNone, kNoFence, kEarlyRelease, kWrongCount, kNoWait, kNoClusterSync, kNoWgmmaFence, kDivergent };

// A pipeline as the resident kernels have it: clusters of two blocks share a stream of weights through a ring, one warp
// copies, two warpgroups multiply. dst[block][128 rows][32] = sum over steps of weights[step][128][16] b[32][16]^T,
// where b = 1 + block. `F` plants a fault.
template <Fault F>
struct Pipeline {
  static constexpr const char* kName = "pipeline_test";
  static constexpr int kMaxThreads = 384, kMinBlocks = 1;
  static constexpr int kSlots = 3, kColumns = 32;
  static constexpr uint32_t kSlotBytes = 128 * 32, kHalfBytes = kSlotBytes / 2, kOperandBytes = kColumns * 32;
  static constexpr uint32_t kSharedBytes = kSlots * kSlotBytes + kOperandBytes + kSlots * 16;
  struct Params {
    const uint8_t* weights;  // [steps][2][128 rows] chunks of eight values of 16 bits
    float* dst;
    int steps;
  };
  static FA_DEVICE void produce(const Params& params, SharedAddress ring, SharedAddress full, SharedAddress empty) {
    uint32_t slot = 0, parity = 0;
    const uint32_t part = cluster_rank() * kHalfBytes;  // each block copies half for both
    FA_NO_UNROLL
    for (int step = 0; step < params.steps; ++step) {
      mbarrier_wait(empty + 8 * slot, parity ^ 1);
      mbarrier_arrive_expect(full + 8 * slot, kSlotBytes);
      copy_bulk_multicast(ring + slot * kSlotBytes + part,
                          params.weights + static_cast<size_t>(step) * kSlotBytes + part, kHalfBytes, full + 8 * slot,
                          3);
      if (++slot == kSlots) {
        slot = 0;
        parity ^= 1;
      }
    }
  }
  static FA_DEVICE void consume(const Params& params, SharedAddress ring, SharedAddress operand, SharedAddress full,
                                SharedAddress empty) {
    const int thread = thread_index(), group = warpgroup_index(), lane = thread % 32;
    const auto release = [&](uint32_t slot) {
      if (thread % 128 < 2) mbarrier_arrive_cluster(empty + 8 * slot, static_cast<uint32_t>(thread % 128));
    };
    // One 16-byte chunk of b each of the first 64 threads.
    if (thread < 2 * kColumns) {
      const uint32_t pair = pack2<Float16>(1.0f + static_cast<float>(block_index().x), 1.0f + block_index().x);
      store_shared(operand + 16u * static_cast<uint32_t>(thread), Vec16{pair, pair, pair, pair});
      if (F != Fault::kNoFence) fence_async();
    }
    named_barrier_sync(1, 256);
    float acc[kColumns / 2];
    uint32_t slot = 0, parity = 0;
    FA_NO_UNROLL
    for (int step = 0; step < params.steps; ++step) {
      if (F != Fault::kNoWait) mbarrier_wait(full + 8 * slot, parity);
      const SharedAddress a = ring + slot * kSlotBytes + static_cast<uint32_t>(group) * 1024;
      if (F == Fault::kDivergent && thread == 3) sync_warp();
      if (F != Fault::kNoWgmmaFence) wgmma_fence();
      wgmma<Float16, kColumns>(acc, matrix_descriptor(a, 2048, 128), matrix_descriptor(operand, kColumns * 16, 128),
                               step > 0);
      wgmma_commit();
      if (F == Fault::kEarlyRelease) release(slot);
      wgmma_wait<0>();
      if (F != Fault::kEarlyRelease) release(slot);
      if (++slot == kSlots) {
        slot = 0;
        parity ^= 1;
      }
    }
    const int row = group * 64 + thread % 128 / 32 * 16 + lane / 4;
    FA_UNROLL
    for (int i = 0; i < kColumns / 2; ++i) {
      const int at = (block_index().x * 128 + row + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2;
      store_global(params.dst + at, acc[i]);
    }
  }
  static FA_DEVICE void run(const Params& params) {
    const SharedAddress ring = shared_base(), operand = ring + kSlots * kSlotBytes, full = operand + kOperandBytes,
                        empty = full + kSlots * 8;
    if (thread_index() == 0) {
      for (uint32_t slot = 0; slot < kSlots; ++slot) {
        mbarrier_init(full + 8 * slot, 1);
        // Two warpgroups of two blocks release.
        mbarrier_init(empty + 8 * slot, F == Fault::kWrongCount ? 5 : 4);
      }
      mbarrier_init_fence();
    }
    if (F == Fault::kNoClusterSync) {
      sync_block();
    } else {
      cluster_sync();
    }
    if (warpgroup_index() == 2) {
      registers_decrease<24>();
      if (thread_index() == 256) produce(params, ring, full, empty);
    } else {
      registers_increase<240>();
      consume(params, ring, operand, full, empty);
    }
    cluster_sync();  // nobody's shared memory goes while others arrive there
  }
};

}  // namespace faceattr::cuda::test
