#include "cpu/kernels/winograd/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Scalar = {{
    winograd_transforms<PortableF32<4>, Winograd2x2Axis>("winograd2x2_f32_scalar"),
    winograd_transforms<PortableF32<4>, Winograd4x4Axis>("winograd4x4_f32_scalar"),
    winograd_transforms<PortableF32<4>, Winograd5x5Axis>("winograd5x5_f32_scalar"),
    winograd_transforms<PortableF32<4>, Polyphase4x4Axis>("polyphase4x4_f32_scalar"),
}};

}  // namespace faceattr::cpu
