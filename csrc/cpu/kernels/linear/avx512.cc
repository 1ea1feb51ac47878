#include "cpu/simd/avx512.h"
#include "cpu/kernels/linear/generic.h"

namespace faceattr::cpu {

extern const LinearKernel kLinearF32Avx512 = {"linear_f32_1x32_avx512", Linear<Avx512F32>::kPanel,
                                              Linear<Avx512F32>::run, Linear<Avx512F32>::run_half};

}  // namespace faceattr::cpu
