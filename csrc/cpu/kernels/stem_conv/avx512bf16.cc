#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/bfloat16_avx512.h"

namespace faceattr::cpu {

// 3 x 4 outputs by 2 vectors of sums, 2 of weights, 1 broadcast, as in avx512.cc.
extern const Bfloat16StemKernel kBfloat16StemAvx512Bf16 = {"stem_bf16_3x32_avx512bf16", 32,
                                                           StemConv<Avx512Bfloat16, 3, 2, 2>::run};

}  // namespace faceattr::cpu
