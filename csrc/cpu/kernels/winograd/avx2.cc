#include "cpu/simd/avx2.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx2 = {{
    winograd_transforms<Avx2F32, Winograd2x2Axis>("winograd2x2_f32_avx2"),
    winograd_transforms<Avx2F32, Winograd4x4Axis>("winograd4x4_f32_avx2"),
    winograd_transforms<Avx2F32, Winograd5x5Axis>("winograd5x5_f32_avx2"),
    winograd_transforms<Avx2F32, Polyphase4x4Axis>("polyphase4x4_f32_avx2"),
}};

}  // namespace faceattr::cpu
