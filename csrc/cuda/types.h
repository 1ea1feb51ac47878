// The words that kernels and their callers share: function qualifiers and value types.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FA_DEVICE __device__ __forceinline__
#define FA_HOST_DEVICE __host__ __device__ __forceinline__
#define FA_UNROLL _Pragma("unroll")
#define FA_NO_UNROLL _Pragma("unroll 1")
#else
#define FA_DEVICE inline
#define FA_HOST_DEVICE inline
#define FA_UNROLL
#define FA_NO_UNROLL
#endif

namespace faceattr::cuda {

// Values of 16 bits, as types that choose an instruction; memory holds them as uint16_t, registers in pairs.
struct Float16 {};
struct Bfloat16 {};

struct alignas(16) Vec16 {  // 16 bytes: one chunk of eight channels
  uint32_t x, y, z, w;
};

struct Float2 {
  float x, y;
};

struct Float8E4m3 {};  // 8 bits: four of exponent, three of mantissa

struct Index3 {
  int x, y, z;
};

using SharedAddress = uint32_t;  // in bytes, of this block's shared memory

}  // namespace faceattr::cuda
