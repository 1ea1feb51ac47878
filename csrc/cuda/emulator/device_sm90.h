// primitives_sm90.h on the emulator.
#pragma once

#include "cuda/emulator/device.h"

namespace faceattr::cuda {
namespace emulator {

// Calls finish() once all 128 threads of the warpgroup have come.
template <class Arguments, class Finish>
void meet_warpgroup(const char* name, int variant, const Arguments& arguments, Finish finish) {
  Machine& m = machine();
  if (m.thread().index / 128 * 128 + 128 > m.program().config.threads) {
    m.fail("%s needs a whole warpgroup of 128 threads", name);
  }
  Collective& collective = m.warpgroup().collective;
  if (m.arrive(collective, 128, name, variant, &arguments)) {
    finish();
    m.release(collective, 128);
  }
}

inline Block& cluster_block(uint32_t rank, const char* what) {
  Machine& m = machine();
  if (rank >= static_cast<uint32_t>(m.program().config.cluster)) {
    m.fail("%s of block rank %u in a cluster of %d", what, rank, m.program().config.cluster);
  }
  // A cluster's blocks are the machine's, in order; a cooperative grid has clusters of one.
  return m.program().config.cluster == 1 ? m.block() : m.blocks()[rank];
}

template <class T>
constexpr Element element_of() {
  if constexpr (std::is_same_v<T, Float16>) return Element::kFloat16;
  if constexpr (std::is_same_v<T, Bfloat16>) return Element::kBfloat16;
  if constexpr (std::is_same_v<T, Float8E4m3>) return Element::kFloat8E4m3;
  if constexpr (std::is_same_v<T, int8_t>) return Element::kInt8;
  if constexpr (std::is_same_v<T, uint8_t>) return Element::kUint8;
}

template <class T, int N>
void start_wgmma(void* acc, uint64_t a, uint64_t b, bool accumulate) {
  const WgmmaArguments arguments{acc, a, b, accumulate};
  meet_warpgroup("wgmma", N, arguments, [&] { issue_product(machine(), element_of<T>(), N, arguments); });
}

inline void set_registers(const char* name, int registers, bool increase) {
  Machine& m = machine();
  meet_warpgroup(name, registers, 0, [&] {
    const int now = m.warpgroup().registers;
    if (increase ? now > registers : now < registers) {
      m.fail("%s to %d where a thread has %d", name, registers, now);
    }
  });
  const auto fits = [&] {
    int sum = 0;
    for (const Warpgroup& group : m.block().warpgroups) {
      sum += 128 * (&group == &m.warpgroup() ? registers : group.registers);
    }
    return sum <= 65536;
  };
  while (!fits()) m.poll(name, static_cast<uint32_t>(registers));
  m.warpgroup().registers = registers;
  m.progressed();
}

}  // namespace emulator

inline uint32_t cluster_rank() { return static_cast<uint32_t>(emulator::machine().block().rank); }
inline uint32_t cluster_blocks() { return static_cast<uint32_t>(emulator::machine().program().config.cluster); }
inline void cluster_arrive() { emulator::machine().cluster_arrive(); }
inline void cluster_wait() { emulator::machine().cluster_wait(); }
inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

template <class T>
T load_cluster(SharedAddress address, uint32_t rank) {
  emulator::Block& block = emulator::cluster_block(rank, "load_cluster");
  return emulator::load<T>(emulator::machine().shared(block, address, sizeof(T), "load_cluster"));
}

template <class T>
void store_cluster(SharedAddress address, uint32_t rank, T value) {
  emulator::Machine& m = emulator::machine();
  emulator::Block& block = emulator::cluster_block(rank, "store_cluster");
  std::memcpy(m.shared(block, address, sizeof(T), "store_cluster"), &value, sizeof value);
  m.mark_written(block, address, sizeof(T));
}

inline void mbarrier_init(SharedAddress barrier, uint32_t arrivals) {
  emulator::Machine& m = emulator::machine();
  m.shared(m.block(), barrier, 8, "mbarrier_init");
  if (arrivals == 0 || arrivals >= 1u << 20) m.fail("mbarrier_init with %u arrivals: 1 to 1048575", arrivals);
  emulator::Mbarrier fresh;
  fresh.arrivals = fresh.pending = arrivals;
  m.block().mbarriers[barrier] = fresh;
}

inline void mbarrier_init_fence() {}

inline void mbarrier_arrive(SharedAddress barrier) {
  emulator::Machine& m = emulator::machine();
  m.step(m.mbarrier(m.block(), barrier), barrier, 1, 0);
}

inline void mbarrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
  emulator::Machine& m = emulator::machine();
  m.step(m.mbarrier(m.block(), barrier), barrier, 1, bytes);
}

inline void mbarrier_arrive_cluster(SharedAddress barrier, uint32_t rank) {
  emulator::Machine& m = emulator::machine();
  m.step(m.mbarrier(emulator::cluster_block(rank, "mbarrier_arrive_cluster"), barrier), barrier, 1, 0);
}

inline bool mbarrier_try_wait(SharedAddress barrier, uint32_t parity) {
  emulator::Machine& m = emulator::machine();
  const emulator::Mbarrier& state = m.mbarrier(m.block(), barrier);
  if ((state.phase & 1) != (parity & 1)) return true;
  m.poll("mbarrier_try_wait", barrier - emulator::kSharedBase);
  return (state.phase & 1) != (parity & 1);
}

inline void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
  emulator::Machine& m = emulator::machine();
  emulator::Mbarrier& state = m.mbarrier(m.block(), barrier);
  while ((state.phase & 1) == (parity & 1)) {
    state.waiting.push_back(&m.thread());
    m.wait("mbarrier_wait at shared_base() +", barrier - emulator::kSharedBase);
  }
}

inline void copy_bulk(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier) {
  emulator::Machine& m = emulator::machine();
  m.issue({&m.block(), dst, static_cast<const uint8_t*>(src), bytes, barrier});
}

inline void copy_bulk_multicast(SharedAddress dst, const void* src, uint32_t bytes, SharedAddress barrier,
                                uint16_t mask) {
  for (uint32_t rank = 0; mask >> rank != 0; ++rank) {
    if ((mask >> rank & 1) == 0) continue;
    emulator::Block& block = emulator::cluster_block(rank, "copy_bulk_multicast");
    emulator::machine().issue({&block, dst, static_cast<const uint8_t*>(src), bytes, barrier});
  }
}

inline void fence_async() { ++emulator::machine().thread().fences; }

template <int X>
void store_matrix(SharedAddress row, const uint32_t (&registers)[X]) {
  static_assert(X == 1 || X == 2 || X == 4);
  emulator::Machine& m = emulator::machine();
  emulator::meet_warp("store_matrix", X, emulator::MatrixArguments{row, const_cast<uint32_t*>(registers)},
                      [&](const void* const* lanes) { emulator::store_matrices(m, lanes, X, false); });
  if (lane_index() < 8 * X) m.mark_written(m.block(), row, 16);
}

template <int X>
void store_matrix_transposed(SharedAddress row, const uint32_t (&registers)[X]) {
  static_assert(X == 1 || X == 2 || X == 4);
  emulator::Machine& m = emulator::machine();
  emulator::meet_warp("store_matrix_transposed", X, emulator::MatrixArguments{row, const_cast<uint32_t*>(registers)},
                      [&](const void* const* lanes) { emulator::store_matrices(m, lanes, X, true); });
  if (lane_index() < 8 * X) m.mark_written(m.block(), row, 16);
}

inline void wgmma_fence() {
  emulator::meet_warpgroup("wgmma_fence", 0, 0, [] { emulator::machine().warpgroup().fenced = true; });
}

template <class T, int N>
void wgmma(float (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0);
  emulator::start_wgmma<T, N>(acc, a, b, accumulate);
}

template <class A, int N>
void wgmma(int32_t (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(N >= 8 && N <= 256 && (N % 16 == 0 || N == 8 || N == 24));
  emulator::start_wgmma<A, N>(acc, a, b, accumulate);
}

inline void wgmma_commit() {
  emulator::meet_warpgroup("wgmma_commit", 0, 0, [] { emulator::commit_products(emulator::machine()); });
}

template <int N>
void wgmma_wait() {
  emulator::meet_warpgroup("wgmma_wait", N, 0, [] { emulator::finish_products(emulator::machine(), N); });
}

template <int Registers>
void registers_increase() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
  emulator::set_registers("registers_increase", Registers, true);
}

template <int Registers>
void registers_decrease() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
  emulator::set_registers("registers_decrease", Registers, false);
}

}  // namespace faceattr::cuda
