#include "cpu/simd/avx2.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx2 = {"winograd4x4_f32_avx2", Winograd<Avx2F32>::input,
                                                Winograd<Avx2F32>::output};

}  // namespace faceattr::cpu
