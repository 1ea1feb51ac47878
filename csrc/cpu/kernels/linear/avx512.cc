#include "cpu/simd/avx512.h"
#include "cpu/kernels/linear/generic.h"

namespace faceattr::cpu {

// 32 registers: 4 chains x 3 images x 2 vectors of sums, 2 of weights, 1 broadcast.
extern const LinearKernel kLinearF32Avx512 = {"linear_f32_3x32_avx512", Linear<Avx512F32, 3>::kPanel, 3,
                                              Linear<Avx512F32, 3>::run, Linear<Avx512F32, 3>::run_half};

}  // namespace faceattr::cpu
