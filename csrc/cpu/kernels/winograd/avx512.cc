#include "cpu/simd/avx512.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx512 = winograd_kernel<Avx512F32, Winograd4x4Axis>("winograd4x4_f32_avx512");
extern const PolyphaseKernel kPolyphaseF32Avx512 =
    winograd_kernel<Avx512F32, Polyphase4x4Axis>("polyphase4x4_f32_avx512");

}  // namespace faceattr::cpu
