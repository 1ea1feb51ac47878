#include "cpu/simd/avx512.h"
#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/bfloat16_avx512.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

// 32 registers: 3 x 4 outputs by 2 vectors of sums, 2 of weights, 1 broadcast; 14 loads per 24 multiply-adds.
extern const FloatStemKernel kFloatStemAvx512 = {"stem_f32_3x32_avx512", 32,
                                                 StemConv<FloatSums<Avx512F32>, 3, 2, 1>::run};
extern const PairStemKernel kPairStemAvx512 = {"stem_s16_3x32_avx512", 32, StemConv<Avx512Integers, 3, 2, 2>::run};
extern const Bfloat16StemKernel kBfloat16StemAvx512 = {"stem_bf16_3x32_avx512", 32,
                                                       StemConv<Avx512Bfloat16, 3, 2, 2>::run};

}  // namespace faceattr::cpu
