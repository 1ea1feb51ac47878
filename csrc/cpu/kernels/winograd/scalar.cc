#include "cpu/kernels/winograd/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Scalar =
    winograd_kernel<PortableF32<4>, Winograd4x4Axis>("winograd4x4_f32_scalar");
extern const PolyphaseKernel kPolyphaseF32Scalar =
    winograd_kernel<PortableF32<4>, Polyphase4x4Axis>("polyphase4x4_f32_scalar");

}  // namespace faceattr::cpu
