// Everything a kernel asks of the device, in one place. Kernels call these functions and plain C++ alone: then the same
// source compiles to PTX (ptx.h, by nvcc) and runs on a host (emulator/device.h, by any C++ compiler). From sm_80; what
// Hopper adds is in primitives_sm90.h.
//
// Shared memory is reached by address and never by pointer, so that the emulator sees every access. Blocks have one
// dimension, a multiple of 32 threads. "Warp" marks functions that all 32 lanes of a warp call together, from the same
// place: there are no masks.
#pragma once

#include "cuda/types.h"

namespace faceattr::cuda {

// ---- Where a thread is.

FA_DEVICE int thread_index();  // in the block
FA_DEVICE int block_threads();
FA_DEVICE Index3 block_index();
FA_DEVICE Index3 grid_size();
FA_DEVICE int lane_index();       // in the warp
FA_DEVICE int warp_index();       // in the block, the same value for a whole warp
FA_DEVICE int warpgroup_index();  // in the block, likewise

// ---- Shared memory: the launch's bytes from shared_base(), which is a multiple of 1024. T has 1, 2, 4, 8 or 16 bytes
// and its address is a multiple of them.

FA_DEVICE SharedAddress shared_base();
template <class T>
FA_DEVICE T load_shared(SharedAddress address);
template <class T>
FA_DEVICE void store_shared(SharedAddress address, T value);

// ---- Global memory. Aligned to T, which has 1, 2, 4, 8 or 16 bytes.

template <class T>
FA_DEVICE T load_global(const T* address);
template <class T>
FA_DEVICE T load_global_constant(const T* address);  // of what no kernel writes while this one runs
template <class T>
FA_DEVICE void store_global(T* address, T value);

// Between blocks of a cooperative launch: what a thread wrote before a release is seen after an acquire that reads it.
FA_DEVICE uint32_t load_acquire_global(const uint32_t* address);
FA_DEVICE uint32_t add_release_global(uint32_t* address, uint32_t value);  // returns what was there

// ---- Barriers.

FA_DEVICE void sync_block();
FA_DEVICE void sync_warp();  // Warp
// Barriers 1 to 15, of `threads` threads (a multiple of 32) that sync or arrive.
FA_DEVICE void named_barrier_sync(int id, int threads);
FA_DEVICE void named_barrier_arrive(int id, int threads);

// ---- Warp: shuffles of 32-bit values.

template <class T>
FA_DEVICE T shuffle_xor(T value, int mask);
template <class T>
FA_DEVICE T shuffle_down(T value, int delta);  // a lane beyond the last keeps its own value
template <class T>
FA_DEVICE T shuffle_from(T value, int lane);

// ---- Asynchronous copies of 16 bytes, aligned to 16, from global to shared memory: zeros where not `valid`, and then
// nothing is read. A thread's copies form groups; wait<N>() returns when all but the latest N groups have landed, for
// the thread that issued them (others need a barrier after it). All must have been waited for when the thread ends.

FA_DEVICE void copy_async_16(SharedAddress dst, const void* src, bool valid);
FA_DEVICE void copy_async_commit();
template <int N>
FA_DEVICE void copy_async_wait();

// ---- Warp: matrices of 8x8 16-bit values, from shared memory to registers. Lane 8 i + r gives the address of row r of
// matrix i (16 bytes, aligned to 16; of X < 4 matrices the other lanes' addresses are ignored). Lane l receives
// elements [l / 4][2 (l % 4)] and the next of matrix i in registers[i]; transposed: [2 (l % 4)][l / 4] and the one
// below.

template <int X>
FA_DEVICE void load_matrix(SharedAddress row, uint32_t (&registers)[X]);
template <int X>
FA_DEVICE void load_matrix_transposed(SharedAddress row, uint32_t (&registers)[X]);

// ---- Warp: acc[16][8] += a[16][K] b[K][8]. With g = lane / 4, t = lane % 4:
//   acc[i]  = element [g + 8 (i / 2)][2 t + i % 2]
//   16 bits, K = 16: a[i] = [g + 8 (i % 2)][2 t + 8 (i / 2)] and the next, b[i] = [2 t + 8 i][g] and the one below
//   8 bits, K = 32:  a[i] = [g + 8 (i % 2)][4 t + 16 (i / 2)] and three more, b[i] = [4 t + 16 i][g] and three below

template <class T>  // Float16, Bfloat16
FA_DEVICE void mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <class A>  // int8_t, uint8_t; b is signed
FA_DEVICE void mma_16x8x32(int32_t (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// acc + the sum of four products of 8-bit values; b is signed.
template <class A>  // int8_t, uint8_t
FA_DEVICE int32_t dot4(uint32_t a, uint32_t b, int32_t acc);

// ---- Conversions, to nearest with ties to even; `x` is the low half. Beyond the range become infinity.

template <class T>
FA_DEVICE uint32_t pack2(float x, float y);
template <class T>
FA_DEVICE Float2 unpack2(uint32_t pair);
template <class T>
FA_DEVICE uint16_t to_bits(float value);
template <class T>
FA_DEVICE float from_bits(uint16_t bits);
FA_DEVICE int32_t round_to_int(float value);  // to nearest even, saturated; 0 for a NaN

// ---- float32 arithmetic that no compiler contracts or reorders. maximum and minimum drop a NaN if the other is none.

FA_DEVICE float multiply(float a, float b);
FA_DEVICE float add(float a, float b);
FA_DEVICE float multiply_add(float a, float b, float c);  // fused
FA_DEVICE float maximum(float a, float b);
FA_DEVICE float minimum(float a, float b);

// ---- Programmatic dependent launch (LaunchConfig::dependent; without effect before sm_90). Before wait() a kernel
// must not read what the kernel before it wrote, nor write what that reads; trigger() lets the next kernel's blocks
// start.

FA_DEVICE void dependency_wait();
FA_DEVICE void dependency_trigger();

}  // namespace faceattr::cuda

#if defined(__CUDACC__)
#include "cuda/ptx.h"
#else
#include "cuda/emulator/device.h"
#endif
