#include "cpu/kernels/winograd/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Scalar = {"winograd4x4_f32_scalar", Winograd<PortableF32<4>>::input,
                                                  Winograd<PortableF32<4>>::output};

}  // namespace faceattr::cpu
