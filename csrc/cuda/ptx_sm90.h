// primitives_sm90.h by nvcc: inline PTX, for sm_90a.
#pragma once

#include "cuda/ptx.h"
#include "cuda/ptx_wgmma.h"

namespace faceattr::cuda {
namespace ptx {

FA_DEVICE uint32_t map_to_block(SharedAddress address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

}  // namespace ptx

FA_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

FA_DEVICE uint32_t cluster_blocks() {
  uint32_t count;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
  return count;
}

FA_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
FA_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
FA_DEVICE void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

template <class T>
FA_DEVICE T load_cluster(SharedAddress address, uint32_t rank) {
  return ptx::Access<T, sizeof(T)>::load_cluster(ptx::map_to_block(address, rank));
}

template <class T>
FA_DEVICE void store_cluster(SharedAddress address, uint32_t rank, T value) {
  ptx::Access<T, sizeof(T)>::store_cluster(ptx::map_to_block(address, rank), value);
}

FA_DEVICE void mbarrier_init(SharedAddress barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

FA_DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

FA_DEVICE void mbarrier_arrive(SharedAddress barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

FA_DEVICE void mbarrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

FA_DEVICE void mbarrier_arrive_cluster(SharedAddress barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(ptx::map_to_block(barrier, rank))
               : "memory");
}

FA_DEVICE bool mbarrier_try_wait(SharedAddress barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

FA_DEVICE void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
  while (!mbarrier_try_wait(barrier, parity)) {
  }
}

FA_DEVICE void copy_bulk(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
               "l"(__cvta_generic_to_global(src)), "r"(bytes), "r"(barrier)
               : "memory");
}

FA_DEVICE void copy_bulk_multicast(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier,
                                   uint16_t mask) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(dst),
      "l"(__cvta_generic_to_global(src)), "r"(bytes), "r"(barrier), "h"(mask)
      : "memory");
}

FA_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define FA_PTX_STORE_MATRIX(NAME, TRANSPOSED)                                                                      \
  template <int X>                                                                                                 \
  FA_DEVICE void NAME(SharedAddress row, const uint32_t (&r)[X]) {                                                 \
    static_assert(X == 1 || X == 2 || X == 4);                                                                     \
    if constexpr (X == 1) {                                                                                        \
      asm volatile("stmatrix.sync.aligned.m8n8.x1" TRANSPOSED ".shared.b16 [%0], {%1};" ::"r"(row), "r"(r[0])      \
                   : "memory");                                                                                    \
    } else if constexpr (X == 2) {                                                                                 \
      asm volatile("stmatrix.sync.aligned.m8n8.x2" TRANSPOSED ".shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(r[0]), \
                   "r"(r[1])                                                                                       \
                   : "memory");                                                                                    \
    } else {                                                                                                       \
      asm volatile("stmatrix.sync.aligned.m8n8.x4" TRANSPOSED ".shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),    \
                   "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])                                                      \
                   : "memory");                                                                                    \
    }                                                                                                              \
  }
FA_PTX_STORE_MATRIX(store_matrix, "")
FA_PTX_STORE_MATRIX(store_matrix_transposed, ".trans")
#undef FA_PTX_STORE_MATRIX

FA_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FA_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
FA_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

template <class T, int N>
FA_DEVICE void wgmma(float (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  ptx::Wgmma<T, N>::run(acc, a, b, accumulate);
}

template <class A, int N>
FA_DEVICE void wgmma(int32_t (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  ptx::Wgmma<A, N>::run(acc, a, b, accumulate);
}

template <int Registers>
FA_DEVICE void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
FA_DEVICE void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

}  // namespace faceattr::cuda
