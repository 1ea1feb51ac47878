#include "cpu/kernels/narrow_winograd/bfloat16.h"
#include "cpu/simd/bfloat16_avx512.h"

namespace faceattr::cpu {

// VCVTNEPS2BF16 rounds.
extern const Bfloat16WinogradKernel kBfloat16WinogradAvx512Bf16 = {{
    bfloat16_transforms<Avx512Bfloat16, Winograd2x2Axis>("bfloat16_winograd2x2_avx512bf16"),
    bfloat16_transforms<Avx512Bfloat16, Winograd4x4Axis>("bfloat16_winograd4x4_avx512bf16"),
    bfloat16_transforms<Avx512Bfloat16, Winograd5x5Axis>("bfloat16_winograd5x5_avx512bf16"),
    bfloat16_transforms<Avx512Bfloat16, Polyphase4x4Axis>("bfloat16_polyphase4x4_avx512bf16"),
}};

}  // namespace faceattr::cpu
