#include "cpu/simd/avx512.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx512 = {{
    winograd_transforms<Avx512F32, Winograd2x2Axis>("winograd2x2_f32_avx512"),
    winograd_transforms<Avx512F32, Winograd4x4Axis>("winograd4x4_f32_avx512"),
    winograd_transforms<Avx512F32, Winograd5x5Axis>("winograd5x5_f32_avx512"),
    winograd_transforms<Avx512F32, Polyphase4x4Axis>("polyphase4x4_f32_avx512"),
}};

}  // namespace faceattr::cpu
