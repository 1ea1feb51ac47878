#include "cpu/simd/avx2.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx2 = winograd_kernel<Avx2F32, Winograd4x4Axis>("winograd4x4_f32_avx2");
extern const PolyphaseKernel kPolyphaseF32Avx2 = winograd_kernel<Avx2F32, Polyphase4x4Axis>("polyphase4x4_f32_avx2");

}  // namespace faceattr::cpu
