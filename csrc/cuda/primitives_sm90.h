// What Hopper (sm_90a) adds to primitives.h: clusters, transaction barriers, bulk copies, warpgroup matrix products.
// "Warpgroup" marks functions that 128 threads, four warps from a multiple of four on, call together.
#pragma once

#include "cuda/primitives.h"

namespace faceattr::cuda {

// ---- Clusters: blocks next to each other in x.

FA_DEVICE uint32_t cluster_rank();
FA_DEVICE uint32_t cluster_blocks();
FA_DEVICE void cluster_arrive();  // releases what this thread wrote
FA_DEVICE void cluster_wait();    // every thread of the cluster has arrived; acquires
FA_DEVICE void cluster_sync();    // both

// The shared memory of block `rank`, at the address that this block knows it by.
template <class T>
FA_DEVICE T load_cluster(SharedAddress address, uint32_t rank);
template <class T>
FA_DEVICE void store_cluster(SharedAddress address, uint32_t rank, T value);

// ---- Transaction barriers: 8 bytes of shared memory. A phase ends when `arrivals` have come and as many bytes as
// were expected; the next begins at once. wait(parity) returns when the phase of that parity has ended: a fresh barrier
// is in phase 0, so wait(0) waits for its first end and wait(1) returns at once.

FA_DEVICE void mbarrier_init(SharedAddress barrier, uint32_t arrivals);
FA_DEVICE void mbarrier_init_fence();  // by the thread that initialised, before a barrier of block or cluster
FA_DEVICE void mbarrier_arrive(SharedAddress barrier);
FA_DEVICE void mbarrier_arrive_expect(SharedAddress barrier, uint32_t bytes);  // one arrival and the bytes to come
FA_DEVICE void mbarrier_arrive_cluster(SharedAddress barrier, uint32_t rank);
FA_DEVICE bool mbarrier_try_wait(SharedAddress barrier, uint32_t parity);
FA_DEVICE void mbarrier_wait(SharedAddress barrier, uint32_t parity);

// ---- Bulk copies from global to shared memory, by one thread: addresses and size are multiples of 16. They count as
// `bytes` on the barrier; multicast: to the same address, and on the barrier at the same address, of every block of the
// cluster in `mask`.

FA_DEVICE void copy_bulk(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier);
FA_DEVICE void copy_bulk_multicast(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier,
                                   uint16_t mask);

// ---- What a thread stored to shared memory is seen by wgmma only after this, by that thread, and then a barrier.

FA_DEVICE void fence_async();

// ---- Warp: registers to matrices in shared memory, the inverse of load_matrix.

template <int X>
FA_DEVICE void store_matrix(SharedAddress row, const uint32_t (&registers)[X]);
template <int X>
FA_DEVICE void store_matrix_transposed(SharedAddress row, const uint32_t (&registers)[X]);

// ---- Warpgroup: acc[64][N] = a[64][K] b[N][K]^T (+ acc where `accumulate`), operands in shared memory without
// swizzle: 8 rows of 16 bytes of K are one contiguous core matrix of 128 bytes; the next 16 bytes of K are
// `k_stride_bytes` further, the next 8 rows `row_stride_bytes`. K = 32 bytes: 16 values of 16 bits, 32 of 8.
//   acc[i] of warp w, lane 4 g + t = element [16 w + g + 8 (i / 2 % 2)][8 (i / 4) + 2 t + i % 2]
// N: multiples of 8 up to 256; of integers 8, 16, 24, 32 and then multiples of 16.
// Products run asynchronously: fence before the first and after registers were touched, commit closes a group, wait<N>
// returns when all but the latest N groups are done. Until then neither operands nor acc may change, nor acc be read.

constexpr FA_HOST_DEVICE uint64_t matrix_descriptor(SharedAddress start, uint32_t k_stride_bytes,
                                                    uint32_t row_stride_bytes) {
  // Addresses have 18 bits, all three fields 14 and units of 16 bytes.
  return static_cast<uint64_t>((start & 0x3ffffu) >> 4) | static_cast<uint64_t>((k_stride_bytes >> 4) & 0x3fffu) << 16 |
         static_cast<uint64_t>((row_stride_bytes >> 4) & 0x3fffu) << 32;
}

FA_DEVICE void wgmma_fence();
template <class T, int N>  // Float16, Bfloat16, Float8E4m3
FA_DEVICE void wgmma(float (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate);
template <class A, int N>  // int8_t, uint8_t; b is signed
FA_DEVICE void wgmma(int32_t (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate);
FA_DEVICE void wgmma_commit();
template <int N>
FA_DEVICE void wgmma_wait();

// ---- Warpgroup: registers per thread from here on, 24 to 256 in steps of 8; 65536 are there for a block at most.

template <int Registers>
FA_DEVICE void registers_increase();
template <int Registers>
FA_DEVICE void registers_decrease();

}  // namespace faceattr::cuda

#if defined(__CUDACC__)
#include "cuda/ptx_sm90.h"
#else
#include "cuda/emulator/device_sm90.h"
#endif
