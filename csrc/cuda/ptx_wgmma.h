// The asm statements of wgmma: one per N, because PTX names every accumulator. Lists of N / 2 registers are built from
// the list of N - 8; a shape that no kernel uses costs nothing. See primitives_sm90.h.
#pragma once

#include <type_traits>

#include "cuda/types.h"

namespace faceattr::cuda::ptx {

template <class T, int N>
struct Wgmma;

// clang-format off
// Names of the accumulators: FA_NAMES_<N>.
#define FA_NAMES_8 "%0, %1, %2, %3"
#define FA_NAMES_16 FA_NAMES_8 ", %4, %5, %6, %7"
#define FA_NAMES_24 FA_NAMES_16 ", %8, %9, %10, %11"
#define FA_NAMES_32 FA_NAMES_24 ", %12, %13, %14, %15"
#define FA_NAMES_40 FA_NAMES_32 ", %16, %17, %18, %19"
#define FA_NAMES_48 FA_NAMES_40 ", %20, %21, %22, %23"
#define FA_NAMES_56 FA_NAMES_48 ", %24, %25, %26, %27"
#define FA_NAMES_64 FA_NAMES_56 ", %28, %29, %30, %31"
#define FA_NAMES_72 FA_NAMES_64 ", %32, %33, %34, %35"
#define FA_NAMES_80 FA_NAMES_72 ", %36, %37, %38, %39"
#define FA_NAMES_88 FA_NAMES_80 ", %40, %41, %42, %43"
#define FA_NAMES_96 FA_NAMES_88 ", %44, %45, %46, %47"
#define FA_NAMES_104 FA_NAMES_96 ", %48, %49, %50, %51"
#define FA_NAMES_112 FA_NAMES_104 ", %52, %53, %54, %55"
#define FA_NAMES_120 FA_NAMES_112 ", %56, %57, %58, %59"
#define FA_NAMES_128 FA_NAMES_120 ", %60, %61, %62, %63"
#define FA_NAMES_136 FA_NAMES_128 ", %64, %65, %66, %67"
#define FA_NAMES_144 FA_NAMES_136 ", %68, %69, %70, %71"
#define FA_NAMES_152 FA_NAMES_144 ", %72, %73, %74, %75"
#define FA_NAMES_160 FA_NAMES_152 ", %76, %77, %78, %79"
#define FA_NAMES_168 FA_NAMES_160 ", %80, %81, %82, %83"
#define FA_NAMES_176 FA_NAMES_168 ", %84, %85, %86, %87"
#define FA_NAMES_184 FA_NAMES_176 ", %88, %89, %90, %91"
#define FA_NAMES_192 FA_NAMES_184 ", %92, %93, %94, %95"
#define FA_NAMES_200 FA_NAMES_192 ", %96, %97, %98, %99"
#define FA_NAMES_208 FA_NAMES_200 ", %100, %101, %102, %103"
#define FA_NAMES_216 FA_NAMES_208 ", %104, %105, %106, %107"
#define FA_NAMES_224 FA_NAMES_216 ", %108, %109, %110, %111"
#define FA_NAMES_232 FA_NAMES_224 ", %112, %113, %114, %115"
#define FA_NAMES_240 FA_NAMES_232 ", %116, %117, %118, %119"
#define FA_NAMES_248 FA_NAMES_240 ", %120, %121, %122, %123"
#define FA_NAMES_256 FA_NAMES_248 ", %124, %125, %126, %127"

// The accumulators themselves, of register class C: FA_ACC_<N>(C).
#define FA_ACC4(C, I) "+" C(acc[I]), "+" C(acc[I + 1]), "+" C(acc[I + 2]), "+" C(acc[I + 3])
#define FA_ACC_8(C) FA_ACC4(C, 0)
#define FA_ACC_16(C) FA_ACC_8(C), FA_ACC4(C, 4)
#define FA_ACC_24(C) FA_ACC_16(C), FA_ACC4(C, 8)
#define FA_ACC_32(C) FA_ACC_24(C), FA_ACC4(C, 12)
#define FA_ACC_40(C) FA_ACC_32(C), FA_ACC4(C, 16)
#define FA_ACC_48(C) FA_ACC_40(C), FA_ACC4(C, 20)
#define FA_ACC_56(C) FA_ACC_48(C), FA_ACC4(C, 24)
#define FA_ACC_64(C) FA_ACC_56(C), FA_ACC4(C, 28)
#define FA_ACC_72(C) FA_ACC_64(C), FA_ACC4(C, 32)
#define FA_ACC_80(C) FA_ACC_72(C), FA_ACC4(C, 36)
#define FA_ACC_88(C) FA_ACC_80(C), FA_ACC4(C, 40)
#define FA_ACC_96(C) FA_ACC_88(C), FA_ACC4(C, 44)
#define FA_ACC_104(C) FA_ACC_96(C), FA_ACC4(C, 48)
#define FA_ACC_112(C) FA_ACC_104(C), FA_ACC4(C, 52)
#define FA_ACC_120(C) FA_ACC_112(C), FA_ACC4(C, 56)
#define FA_ACC_128(C) FA_ACC_120(C), FA_ACC4(C, 60)
#define FA_ACC_136(C) FA_ACC_128(C), FA_ACC4(C, 64)
#define FA_ACC_144(C) FA_ACC_136(C), FA_ACC4(C, 68)
#define FA_ACC_152(C) FA_ACC_144(C), FA_ACC4(C, 72)
#define FA_ACC_160(C) FA_ACC_152(C), FA_ACC4(C, 76)
#define FA_ACC_168(C) FA_ACC_160(C), FA_ACC4(C, 80)
#define FA_ACC_176(C) FA_ACC_168(C), FA_ACC4(C, 84)
#define FA_ACC_184(C) FA_ACC_176(C), FA_ACC4(C, 88)
#define FA_ACC_192(C) FA_ACC_184(C), FA_ACC4(C, 92)
#define FA_ACC_200(C) FA_ACC_192(C), FA_ACC4(C, 96)
#define FA_ACC_208(C) FA_ACC_200(C), FA_ACC4(C, 100)
#define FA_ACC_216(C) FA_ACC_208(C), FA_ACC4(C, 104)
#define FA_ACC_224(C) FA_ACC_216(C), FA_ACC4(C, 108)
#define FA_ACC_232(C) FA_ACC_224(C), FA_ACC4(C, 112)
#define FA_ACC_240(C) FA_ACC_232(C), FA_ACC4(C, 116)
#define FA_ACC_248(C) FA_ACC_240(C), FA_ACC4(C, 120)
#define FA_ACC_256(C) FA_ACC_248(C), FA_ACC4(C, 124)
// clang-format on

// A, B and P are the numbers of the operands after the accumulators: both descriptors and whether to accumulate.
#define FA_WGMMA_ASM(N, A, B, P, DEPTH, TYPES, SCALES, C)                                   \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #P                    \
               ", 0;\n"                                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #N "k" DEPTH "." TYPES " {" FA_NAMES_##N \
               "}, %" #A ", %" #B ", accumulate" SCALES ";\n}"                              \
               : FA_ACC_##N(C)                                                              \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))

#define FA_WGMMA_FLOAT(N, A, B, P)                                                            \
  template <class T>                                                                          \
  struct Wgmma<T, N> {                                                                        \
    static FA_DEVICE void run(float (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
      if constexpr (std::is_same_v<T, Float16>) {                                             \
        FA_WGMMA_ASM(N, A, B, P, "16", "f32.f16.f16", ", 1, 1, 0, 0", "f");                   \
      } else if constexpr (std::is_same_v<T, Bfloat16>) {                                     \
        FA_WGMMA_ASM(N, A, B, P, "16", "f32.bf16.bf16", ", 1, 1, 0, 0", "f");                 \
      } else {                                                                                \
        static_assert(std::is_same_v<T, Float8E4m3>);                                         \
        FA_WGMMA_ASM(N, A, B, P, "32", "f32.e4m3.e4m3", ", 1, 1", "f");                       \
      }                                                                                       \
    }                                                                                         \
  };

#define FA_WGMMA_INTEGER(N, A, B, P)                                                            \
  template <>                                                                                   \
  struct Wgmma<int8_t, N> {                                                                     \
    static FA_DEVICE void run(int32_t (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
      FA_WGMMA_ASM(N, A, B, P, "32", "s32.s8.s8", "", "r");                                     \
    }                                                                                           \
  };                                                                                            \
  template <>                                                                                   \
  struct Wgmma<uint8_t, N> {                                                                    \
    static FA_DEVICE void run(int32_t (&acc)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
      FA_WGMMA_ASM(N, A, B, P, "32", "s32.u8.s8", "", "r");                                     \
    }                                                                                           \
  };

// Shapes in use are a line each; N, then N / 2, N / 2 + 1 and N / 2 + 2.
FA_WGMMA_FLOAT(8, 4, 5, 6)
FA_WGMMA_FLOAT(16, 8, 9, 10)
FA_WGMMA_FLOAT(32, 16, 17, 18)
FA_WGMMA_FLOAT(64, 32, 33, 34)
FA_WGMMA_FLOAT(96, 48, 49, 50)
FA_WGMMA_FLOAT(112, 56, 57, 58)
FA_WGMMA_FLOAT(120, 60, 61, 62)
FA_WGMMA_FLOAT(128, 64, 65, 66)
FA_WGMMA_FLOAT(192, 96, 97, 98)
FA_WGMMA_FLOAT(200, 100, 101, 102)
FA_WGMMA_FLOAT(208, 104, 105, 106)
FA_WGMMA_FLOAT(224, 112, 113, 114)
FA_WGMMA_FLOAT(232, 116, 117, 118)
FA_WGMMA_FLOAT(256, 128, 129, 130)
FA_WGMMA_INTEGER(8, 4, 5, 6)
FA_WGMMA_INTEGER(16, 8, 9, 10)
FA_WGMMA_INTEGER(32, 16, 17, 18)
FA_WGMMA_INTEGER(64, 32, 33, 34)
FA_WGMMA_INTEGER(96, 48, 49, 50)
FA_WGMMA_INTEGER(112, 56, 57, 58)
FA_WGMMA_INTEGER(128, 64, 65, 66)
FA_WGMMA_INTEGER(192, 96, 97, 98)
FA_WGMMA_INTEGER(208, 104, 105, 106)
FA_WGMMA_INTEGER(224, 112, 113, 114)
FA_WGMMA_INTEGER(240, 120, 121, 122)
FA_WGMMA_INTEGER(256, 128, 129, 130)

#undef FA_WGMMA_FLOAT
#undef FA_WGMMA_INTEGER
#undef FA_WGMMA_ASM

}  // namespace faceattr::cuda::ptx
