// primitives.h by nvcc: inline PTX, from sm_80.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/types.h"

namespace faceattr::cuda {

FA_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FA_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
FA_DEVICE Index3 block_index() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}
FA_DEVICE Index3 grid_size() {
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
}
FA_DEVICE int lane_index() { return static_cast<int>(threadIdx.x % 32); }
FA_DEVICE int warp_index() { return static_cast<int>(threadIdx.x / 32); }
FA_DEVICE int warpgroup_index() { return static_cast<int>(threadIdx.x / 128); }

FA_DEVICE SharedAddress shared_base() {
  extern __shared__ __align__(1024) uint8_t shared_memory[];
  return static_cast<SharedAddress>(__cvta_generic_to_shared(shared_memory));
}

namespace ptx {

template <class T, int Bytes>
struct Access;  // Register: what an instruction moves; memory() of T as one

#define FA_PTX_ACCESS(BYTES, REGISTER, SUFFIX, LETTER)                                                      \
  template <class T>                                                                                        \
  struct Access<T, BYTES> {                                                                                 \
    static FA_DEVICE T load_shared(SharedAddress address) {                                                 \
      REGISTER raw;                                                                                         \
      asm volatile("ld.shared." SUFFIX " %0, [%1];" : "=" LETTER(raw) : "r"(address) : "memory");           \
      return from(raw);                                                                                     \
    }                                                                                                       \
    static FA_DEVICE void store_shared(SharedAddress address, T value) {                                    \
      asm volatile("st.shared." SUFFIX " [%0], %1;" ::"r"(address), LETTER(to(value)) : "memory");          \
    }                                                                                                       \
    static FA_DEVICE T load_cluster(uint32_t address) {                                                     \
      REGISTER raw;                                                                                         \
      asm volatile("ld.shared::cluster." SUFFIX " %0, [%1];" : "=" LETTER(raw) : "r"(address) : "memory");  \
      return from(raw);                                                                                     \
    }                                                                                                       \
    static FA_DEVICE void store_cluster(uint32_t address, T value) {                                        \
      asm volatile("st.shared::cluster." SUFFIX " [%0], %1;" ::"r"(address), LETTER(to(value)) : "memory"); \
    }                                                                                                       \
    static FA_DEVICE T from(REGISTER raw) {                                                                 \
      T value;                                                                                              \
      memcpy(&value, &raw, sizeof value);                                                                   \
      return value;                                                                                         \
    }                                                                                                       \
    static FA_DEVICE REGISTER to(T value) {                                                                 \
      REGISTER raw = 0;                                                                                     \
      memcpy(&raw, &value, sizeof value);                                                                   \
      return raw;                                                                                           \
    }                                                                                                       \
  };
FA_PTX_ACCESS(1, uint16_t, "b8", "h")
FA_PTX_ACCESS(2, uint16_t, "b16", "h")
FA_PTX_ACCESS(4, uint32_t, "b32", "r")
FA_PTX_ACCESS(8, uint64_t, "b64", "l")
#undef FA_PTX_ACCESS

template <class T>
struct Access<T, 16> {
  static FA_DEVICE T load_shared(SharedAddress address) {
    uint4 raw;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "r"(address)
                 : "memory");
    return from(raw);
  }
  static FA_DEVICE void store_shared(SharedAddress address, T value) {
    const uint4 raw = to(value);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(raw.x), "r"(raw.y), "r"(raw.z),
                 "r"(raw.w)
                 : "memory");
  }
  static FA_DEVICE T load_cluster(uint32_t address) {
    uint4 raw;
    asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "r"(address)
                 : "memory");
    return from(raw);
  }
  static FA_DEVICE void store_cluster(uint32_t address, T value) {
    const uint4 raw = to(value);
    asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(raw.x), "r"(raw.y), "r"(raw.z),
                 "r"(raw.w)
                 : "memory");
  }
  static FA_DEVICE T from(uint4 raw) {
    T value;
    memcpy(&value, &raw, sizeof value);
    return value;
  }
  static FA_DEVICE uint4 to(T value) {
    uint4 raw;
    memcpy(&raw, &value, sizeof value);
    return raw;
  }
};

}  // namespace ptx

template <class T>
FA_DEVICE T load_shared(SharedAddress address) {
  return ptx::Access<T, sizeof(T)>::load_shared(address);
}

template <class T>
FA_DEVICE void store_shared(SharedAddress address, T value) {
  ptx::Access<T, sizeof(T)>::store_shared(address, value);
}

template <class T>
FA_DEVICE T load_global(const T* address) {
  return *address;
}

template <class T>
FA_DEVICE T load_global_constant(const T* address) {
  if constexpr (sizeof(T) == 16) {
    return ptx::Access<T, 16>::from(__ldg(reinterpret_cast<const uint4*>(address)));
  } else if constexpr (sizeof(T) == 8) {
    return ptx::Access<T, 8>::from(__ldg(reinterpret_cast<const unsigned long long*>(address)));
  } else {
    return __ldg(address);
  }
}

template <class T>
FA_DEVICE void store_global(T* address, T value) {
  *address = value;
}

FA_DEVICE uint32_t load_acquire_global(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

FA_DEVICE uint32_t add_release_global(uint32_t* address, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
  return before;
}

FA_DEVICE void sync_block() { __syncthreads(); }
FA_DEVICE void sync_warp() { __syncwarp(); }
FA_DEVICE void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
FA_DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <class T>
FA_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}

template <class T>
FA_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(~0u, value, static_cast<unsigned>(delta));
}

template <class T>
FA_DEVICE T shuffle_from(T value, int lane) {
  return __shfl_sync(~0u, value, lane);
}

FA_DEVICE void copy_async_16(SharedAddress dst, const void* src, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(__cvta_generic_to_global(src)),
               "r"(valid ? 16 : 0)
               : "memory");
}

FA_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
FA_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#define FA_PTX_LOAD_MATRIX(NAME, TRANSPOSED)                                                        \
  template <int X>                                                                                  \
  FA_DEVICE void NAME(SharedAddress row, uint32_t (&r)[X]) {                                        \
    static_assert(X == 1 || X == 2 || X == 4);                                                      \
    if constexpr (X == 1) {                                                                         \
      asm volatile("ldmatrix.sync.aligned.m8n8.x1" TRANSPOSED ".shared.b16 {%0}, [%1];"             \
                   : "=r"(r[0])                                                                     \
                   : "r"(row)                                                                       \
                   : "memory");                                                                     \
    } else if constexpr (X == 2) {                                                                  \
      asm volatile("ldmatrix.sync.aligned.m8n8.x2" TRANSPOSED ".shared.b16 {%0, %1}, [%2];"         \
                   : "=r"(r[0]), "=r"(r[1])                                                         \
                   : "r"(row)                                                                       \
                   : "memory");                                                                     \
    } else {                                                                                        \
      asm volatile("ldmatrix.sync.aligned.m8n8.x4" TRANSPOSED ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                                 \
                   : "r"(row)                                                                       \
                   : "memory");                                                                     \
    }                                                                                               \
  }
FA_PTX_LOAD_MATRIX(load_matrix, "")
FA_PTX_LOAD_MATRIX(load_matrix_transposed, ".trans")
#undef FA_PTX_LOAD_MATRIX

#define FA_PTX_MMA(SHAPE, TYPES, LETTER)                                                        \
  asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES                                      \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"               \
               : "+" LETTER(acc[0]), "+" LETTER(acc[1]), "+" LETTER(acc[2]), "+" LETTER(acc[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <class T>
FA_DEVICE void mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, Float16>) {
    FA_PTX_MMA("m16n8k16", "f32.f16.f16.f32", "f");
  } else {
    static_assert(std::is_same_v<T, Bfloat16>);
    FA_PTX_MMA("m16n8k16", "f32.bf16.bf16.f32", "f");
  }
}

template <class A>
FA_DEVICE void mma_16x8x32(int32_t (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<A, int8_t>) {
    FA_PTX_MMA("m16n8k32", "s32.s8.s8.s32", "r");
  } else {
    static_assert(std::is_same_v<A, uint8_t>);
    FA_PTX_MMA("m16n8k32", "s32.u8.s8.s32", "r");
  }
}
#undef FA_PTX_MMA

template <class A>
FA_DEVICE int32_t dot4(uint32_t a, uint32_t b, int32_t acc) {
  int32_t sum;
  if constexpr (std::is_same_v<A, int8_t>) {
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(acc));
  } else {
    static_assert(std::is_same_v<A, uint8_t>);
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(acc));
  }
  return sum;
}

template <class T>
FA_DEVICE uint32_t pack2(float x, float y) {
  uint32_t pair;
  if constexpr (std::is_same_v<T, Float16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  }
  return pair;
}

template <class T>
FA_DEVICE uint16_t to_bits(float value) {
  if constexpr (std::is_same_v<T, Float16>) {
    return __half_as_ushort(__float2half_rn(value));
  } else {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
}

template <class T>
FA_DEVICE float from_bits(uint16_t bits) {
  if constexpr (std::is_same_v<T, Float16>) {
    return __half2float(__ushort_as_half(bits));
  } else {
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }
}

template <class T>
FA_DEVICE Float2 unpack2(uint32_t pair) {
  return {from_bits<T>(static_cast<uint16_t>(pair)), from_bits<T>(static_cast<uint16_t>(pair >> 16))};
}

FA_DEVICE int32_t round_to_int(float value) { return __float2int_rn(value); }

FA_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
FA_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
FA_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FA_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
FA_DEVICE float minimum(float a, float b) { return fminf(a, b); }

FA_DEVICE void dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

FA_DEVICE void dependency_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace faceattr::cuda
