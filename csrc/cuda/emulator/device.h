// primitives.h on the emulator.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/emulator/machine.h"
#include "cuda/emulator/matrix.h"
#include "cuda/emulator/numbers.h"

namespace faceattr::cuda {
namespace emulator {

// Calls finish(lanes) once all lanes of the warp have come with what they bring.
template <class Arguments, class Finish>
void meet_warp(const char* name, int variant, const Arguments& arguments, Finish finish) {
  Machine& m = machine();
  Collective& warp = m.block().warps[static_cast<size_t>(m.thread().index / 32)];
  if (m.arrive(warp, 32, name, variant, &arguments)) {
    finish(static_cast<const void* const*>(warp.arguments));
    m.release(warp, 32);
  }
}

template <class T>
T shuffle(const char* name, T value, int source) {
  static_assert(sizeof(T) == 4);
  struct Lane {
    T given;
    T* taken;
    int source;
  };
  T taken{};
  meet_warp(name, 0, Lane{value, &taken, source}, [](const void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      const Lane& to = *static_cast<const Lane*>(lanes[lane]);
      *to.taken = static_cast<const Lane*>(lanes[to.source])->given;
    }
  });
  return taken;
}

template <class T>
T load(const void* from) {
  T value;
  std::memcpy(static_cast<void*>(&value), from, sizeof value);
  return value;
}

}  // namespace emulator

inline int thread_index() { return emulator::machine().thread().index; }
inline int block_threads() { return emulator::machine().program().config.threads; }
inline Index3 block_index() { return emulator::machine().block().index; }
inline Index3 grid_size() { return emulator::machine().program().config.grid; }
inline int lane_index() { return thread_index() % 32; }
inline int warp_index() { return thread_index() / 32; }
inline int warpgroup_index() { return thread_index() / 128; }

inline SharedAddress shared_base() { return emulator::kSharedBase; }

template <class T>
T load_shared(SharedAddress address) {
  emulator::Machine& m = emulator::machine();
  return emulator::load<T>(m.shared(m.block(), address, sizeof(T), "load_shared"));
}

template <class T>
void store_shared(SharedAddress address, T value) {
  emulator::Machine& m = emulator::machine();
  std::memcpy(m.shared(m.block(), address, sizeof(T), "store_shared"), &value, sizeof value);
  m.mark_written(m.block(), address, sizeof(T));
}

template <class T>
T load_global(const T* address) {
  emulator::Machine& m = emulator::machine();
  if (m.thread().depends) m.fail("load_global before dependency_wait; load_global_constant reads what never changes");
  m.check_global(address, sizeof(T), "load_global");
  return emulator::load<T>(address);
}

template <class T>
T load_global_constant(const T* address) {
  emulator::machine().check_global(address, sizeof(T), "load_global_constant");
  return emulator::load<T>(address);
}

template <class T>
void store_global(T* address, T value) {
  emulator::Machine& m = emulator::machine();
  if (m.thread().depends) m.fail("store_global before dependency_wait");
  m.check_global(address, sizeof(T), "store_global");
  std::memcpy(static_cast<void*>(address), &value, sizeof value);
}

inline uint32_t load_acquire_global(const uint32_t* address) {
  emulator::Machine& m = emulator::machine();
  m.check_global(address, 4, "load_acquire_global");
  m.poll("load_acquire_global");
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

inline uint32_t add_release_global(uint32_t* address, uint32_t value) {
  emulator::Machine& m = emulator::machine();
  m.check_global(address, 4, "add_release_global");
  m.progressed();
  return __atomic_fetch_add(address, value, __ATOMIC_RELEASE);
}

inline void sync_block() { emulator::machine().sync(0, block_threads(), true); }

inline void sync_warp() {
  emulator::meet_warp("sync_warp", 0, 0, [](const void* const*) {});
}

inline void named_barrier_sync(int id, int threads) {
  if (id < 1) emulator::machine().fail("barrier %d: 0 is sync_block's", id);
  emulator::machine().sync(id, threads, true);
}

inline void named_barrier_arrive(int id, int threads) {
  if (id < 1) emulator::machine().fail("barrier %d: 0 is sync_block's", id);
  emulator::machine().sync(id, threads, false);
}

template <class T>
T shuffle_xor(T value, int mask) {
  return emulator::shuffle("shuffle_xor", value, (lane_index() ^ mask) & 31);
}

template <class T>
T shuffle_down(T value, int delta) {
  const int from = lane_index() + delta;
  return emulator::shuffle("shuffle_down", value, from < 32 ? from : lane_index());
}

template <class T>
T shuffle_from(T value, int lane) {
  return emulator::shuffle("shuffle_from", value, lane & 31);
}

// Until the copy has landed the destination holds garbage.
inline void copy_async_16(SharedAddress dst, const void* src, bool valid) {
  emulator::Machine& m = emulator::machine();
  if (valid) m.check_global(src, 16, "copy_async_16");
  std::memset(m.shared(m.block(), dst, 16, "copy_async_16"), 0xff, 16);
  m.thread().copies.push_back({dst, valid ? src : nullptr, m.thread().copy_group});
}

inline void copy_async_commit() { ++emulator::machine().thread().copy_group; }

template <int N>
void copy_async_wait() {
  emulator::machine().land_copies(N);
}

template <int X>
void load_matrix(SharedAddress row, uint32_t (&registers)[X]) {
  static_assert(X == 1 || X == 2 || X == 4);
  emulator::meet_warp("load_matrix", X, emulator::MatrixArguments{row, registers},
                      [](const void* const* lanes) { emulator::load_matrices(emulator::machine(), lanes, X, false); });
}

template <int X>
void load_matrix_transposed(SharedAddress row, uint32_t (&registers)[X]) {
  static_assert(X == 1 || X == 2 || X == 4);
  emulator::meet_warp("load_matrix_transposed", X, emulator::MatrixArguments{row, registers},
                      [](const void* const* lanes) { emulator::load_matrices(emulator::machine(), lanes, X, true); });
}

template <class T>
void mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::meet_warp("mma_16x8x16", std::is_same_v<T, Float16> ? 0 : 1, emulator::MmaArguments{acc, a, b},
                      [](const void* const* lanes) { emulator::multiply_16x8x16<T>(lanes); });
}

template <class A>
void mma_16x8x32(int32_t (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::meet_warp("mma_16x8x32", std::is_same_v<A, int8_t> ? 0 : 1, emulator::MmaArguments{acc, a, b},
                      [](const void* const* lanes) { emulator::multiply_16x8x32<A>(lanes); });
}

template <class A>
int32_t dot4(uint32_t a, uint32_t b, int32_t acc) {
  uint32_t sum = static_cast<uint32_t>(acc);  // wraps, as the device's
  for (int byte = 0; byte < 4; ++byte) {
    sum += static_cast<uint32_t>(static_cast<A>(a >> 8 * byte) * static_cast<int8_t>(b >> 8 * byte));
  }
  return static_cast<int32_t>(sum);
}

template <class T>
uint16_t to_bits(float value) {
  return emulator::Format<T>::bits(value);
}

template <class T>
float from_bits(uint16_t bits) {
  return emulator::Format<T>::value(bits);
}

template <class T>
uint32_t pack2(float x, float y) {
  return to_bits<T>(x) | static_cast<uint32_t>(to_bits<T>(y)) << 16;
}

template <class T>
Float2 unpack2(uint32_t pair) {
  return {from_bits<T>(static_cast<uint16_t>(pair)), from_bits<T>(static_cast<uint16_t>(pair >> 16))};
}

inline int32_t round_to_int(float value) {
  if (value != value) return 0;
  if (value >= 0x1p31f) return INT32_MAX;
  if (value <= -0x1p31f) return INT32_MIN;
  return static_cast<int32_t>(std::nearbyint(value));
}

inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }

inline float maximum(float a, float b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;  // +0 is more than -0
  return a > b ? a : b;
}

inline float minimum(float a, float b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

inline void dependency_wait() { emulator::machine().thread().depends = false; }
inline void dependency_trigger() {}

}  // namespace faceattr::cuda
