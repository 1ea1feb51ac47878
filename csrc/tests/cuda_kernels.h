// Small kernels that together call every portable primitive. test_cuda_primitives.cc compares what they compute on the
// emulator with the primitives' definitions; a device must give the same bits.
#pragma once

#include <type_traits>

#include "cuda/launch.h"

namespace faceattr::cuda::test {

// Four matrices of 8x8, read plainly and transposed by one, two and four.
struct LoadMatrix {
  static constexpr const char* kName = "load_matrix_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    const Vec16* src;  // [32] rows: four matrices
    uint32_t* dst;     // [2][7][32]
  };
  template <int X>
  static FA_DEVICE void both(const Params& params, int at) {
    const int lane = lane_index();
    const SharedAddress row = shared_base() + 16u * static_cast<uint32_t>(lane % (8 * X));
    uint32_t plain[X], transposed[X];
    load_matrix(row, plain);
    load_matrix_transposed(row, transposed);
    for (int i = 0; i < X; ++i) {
      store_global(params.dst + (at + i) * 32 + lane, plain[i]);
      store_global(params.dst + (7 + at + i) * 32 + lane, transposed[i]);
    }
  }
  static FA_DEVICE void run(const Params& params) {
    const int lane = lane_index();
    copy_async_16(shared_base() + 16u * static_cast<uint32_t>(lane), params.src + lane, true);
    copy_async_commit();
    copy_async_wait<0>();
    sync_block();
    both<1>(params, 0);
    both<2>(params, 1);
    both<4>(params, 3);
  }
};

// dst[16][8] = src_a[16][32 bytes] * src_b[32 bytes][8], fragments gathered by hand from row-major matrices.
template <class T>
struct Mma {
  static constexpr bool kWide = std::is_same_v<T, Float16> || std::is_same_v<T, Bfloat16>;
  using Acc = std::conditional_t<kWide, float, int32_t>;
  static constexpr const char* kName = "mma_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    const uint32_t* a;  // [16][8 words]
    const uint32_t* b;  // [8][8 words]: transposed
    const Acc* c;       // [16][8]
    Acc* dst;           // [16][8]
  };
  static FA_DEVICE void run(const Params& params) {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    uint32_t a[4], b[2];
    Acc acc[4];
    for (int i = 0; i < 4; ++i) a[i] = load_global(params.a + (g + 8 * (i % 2)) * 8 + t + 4 * (i / 2));
    for (int i = 0; i < 2; ++i) b[i] = load_global(params.b + g * 8 + t + 4 * i);
    for (int i = 0; i < 4; ++i) acc[i] = load_global(params.c + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2);
    if constexpr (kWide) {
      mma_16x8x16<T>(acc, a, b);
    } else {
      mma_16x8x32<T>(acc, a, b);
    }
    for (int i = 0; i < 4; ++i) store_global(params.dst + (g + 8 * (i / 2)) * 8 + 2 * t + i % 2, acc[i]);
  }
};

struct Shuffles {
  static constexpr const char* kName = "shuffle_test";
  static constexpr int kMaxThreads = 64, kMinBlocks = 1;
  struct Params {
    float* dst;  // [block][4][64]
  };
  static FA_DEVICE void run(const Params& params) {
    const int thread = thread_index(), block = block_index().x + 3 * block_index().y;
    const float value = static_cast<float>(1000 * block + thread);
    float* const dst = params.dst + block * 256 + thread;
    store_global(dst, shuffle_xor(value, 5));
    store_global(dst + 64, shuffle_down(value, 20));
    store_global(dst + 128, shuffle_from(value, 31 - lane_index()));
    sync_warp();
    store_global(dst + 192, static_cast<float>(warp_index() + grid_size().x * 10 + block_threads() * 100));
  }
};

// A ring of three slots that copies fill ahead: thread t's chunks are read by its neighbour. Odd chunks are zeros.
// Not `Synchronised` it lacks its barrier.
template <bool Synchronised>
struct Ring {
  static constexpr const char* kName = "ring_test";
  static constexpr int kMaxThreads = 64, kMinBlocks = 1;
  static constexpr int kSlots = 3;
  struct Params {
    const Vec16* src;  // [chunks][64]
    Vec16* dst;        // [chunks][64]
    int chunks;
  };
  static FA_DEVICE void issue(const Params& params, int chunk) {
    if (chunk < params.chunks) {
      const int thread = thread_index();
      copy_async_16(slot(chunk, thread), params.src + chunk * 64 + thread, (chunk + thread) % 2 == 0);
    }
    copy_async_commit();
  }
  static FA_DEVICE SharedAddress slot(int chunk, int thread) {
    return shared_base() + 16u * static_cast<uint32_t>(chunk % kSlots * 64 + thread);
  }
  static FA_DEVICE void run(const Params& params) {
    const int neighbour = (thread_index() + 33) % 64;
    for (int chunk = 0; chunk < kSlots - 1; ++chunk) issue(params, chunk);
    for (int chunk = 0; chunk < params.chunks; ++chunk) {
      copy_async_wait<kSlots - 2>();
      if (Synchronised) sync_block();
      issue(params, chunk + kSlots - 1);
      store_global(params.dst + chunk * 64 + neighbour, load_shared<Vec16>(slot(chunk, neighbour)));
    }
    copy_async_wait<0>();
  }
};

// Barrier 1 lets warp 1 hand a value to warp 0 without waiting.
struct Handover {
  static constexpr const char* kName = "handover_test";
  static constexpr int kMaxThreads = 64, kMinBlocks = 1;
  struct Params {
    int* dst;  // [32]
  };
  static FA_DEVICE void run(const Params& params) {
    const int lane = lane_index();
    const SharedAddress at = shared_base() + 4u * static_cast<uint32_t>(lane);
    if (warp_index() == 1) {
      store_shared(at, lane * lane);
      named_barrier_arrive(1, 64);
    } else {
      named_barrier_sync(1, 64);
      store_global(params.dst + lane, load_shared<int>(at));
    }
  }
};

// All blocks of a cooperative grid meet at a counter, then read what their neighbours wrote.
struct GridBarrier {
  static constexpr const char* kName = "grid_barrier_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    uint32_t* counter;
    int* between;  // [blocks]
    int* dst;      // [blocks]
  };
  static FA_DEVICE void run(const Params& params) {
    const int block = block_index().x, blocks = grid_size().x;
    if (thread_index() == 0) {
      store_global(params.between + block, 3 * block);
      add_release_global(params.counter, 1);
      while (load_acquire_global(params.counter) < static_cast<uint32_t>(blocks)) {
      }
      store_global(params.dst + block, load_global(params.between + (block + 1) % blocks));
    }
  }
};

// One value of each scalar function per thread.
struct Scalars {
  static constexpr const char* kName = "scalar_test";
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  struct Params {
    const float* src;  // [3][32]
    uint32_t* dst;     // [14][32]
  };
  static FA_DEVICE uint32_t bits(float value) {
    uint32_t result;
    memcpy(&result, &value, sizeof result);
    return result;
  }
  static FA_DEVICE void run(const Params& params) {
    dependency_trigger();
    dependency_wait();
    const int lane = lane_index();
    const float x = load_global_constant(params.src + lane), y = load_global(params.src + 32 + lane),
                z = load_global(params.src + 64 + lane);
    const Float2 half = unpack2<Float16>(pack2<Float16>(x, y)), brain = unpack2<Bfloat16>(pack2<Bfloat16>(x, y));
    const uint32_t results[14] = {bits(multiply(x, y)),
                                  bits(add(x, y)),
                                  bits(multiply_add(x, y, z)),
                                  bits(maximum(x, y)),
                                  bits(minimum(x, y)),
                                  static_cast<uint32_t>(round_to_int(x)),
                                  pack2<Float16>(x, y),
                                  pack2<Bfloat16>(x, y),
                                  bits(half.y),
                                  bits(brain.x),
                                  static_cast<uint32_t>(to_bits<Float16>(z)),
                                  static_cast<uint32_t>(to_bits<Bfloat16>(z)),
                                  static_cast<uint32_t>(dot4<int8_t>(bits(x), bits(y), 1)),
                                  static_cast<uint32_t>(dot4<uint8_t>(bits(x), bits(y), 1))};
    FA_UNROLL
    for (int i = 0; i < 14; ++i) store_global(params.dst + i * 32 + lane, results[i]);
  }
};

}  // namespace faceattr::cuda::test
