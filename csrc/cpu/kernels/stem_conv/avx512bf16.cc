#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/bfloat16_avx512.h"

namespace faceattr::cpu {

extern const Bfloat16StemKernel kBfloat16StemAvx512Bf16 = {"stem_bf16_3x32_avx512bf16", 32,
                                                           StemConv<Avx512Bfloat16, 3, 2, 2>::run};

}  // namespace faceattr::cpu
