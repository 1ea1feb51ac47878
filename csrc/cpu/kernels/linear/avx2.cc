#include "cpu/simd/avx2.h"
#include "cpu/kernels/linear/generic.h"

namespace faceattr::cpu {

extern const LinearKernel kLinearF32Avx2 = {"linear_f32_1x16_avx2", Linear<Avx2F32>::kPanel, 1, Linear<Avx2F32>::run,
                                            Linear<Avx2F32>::run_half};

}  // namespace faceattr::cpu
