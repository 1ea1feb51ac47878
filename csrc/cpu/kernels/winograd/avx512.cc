#include "cpu/simd/avx512.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {

extern const WinogradKernel kWinogradF32Avx512 = {"winograd4x4_f32_avx512", Winograd<Avx512F32>::input,
                                                  Winograd<Avx512F32>::output};

}  // namespace faceattr::cpu
