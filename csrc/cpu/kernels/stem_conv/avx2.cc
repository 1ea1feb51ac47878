#include "cpu/simd/avx2.h"
#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/bfloat16_avx2.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

// 16 registers: 4 outputs by 2 vectors of sums, 2 of weights, 1 broadcast. 8 independent sums hide 4 cycles of latency
// at 2 multiply-adds a cycle.
extern const FloatStemKernel kFloatStemAvx2 = {"stem_f32_1x16_avx2", 16, StemConv<FloatSums<Avx2F32>, 1, 2, 1>::run};
extern const PairStemKernel kPairStemAvx2 = {"stem_s16_1x16_avx2", 16, StemConv<Avx2Integers, 1, 2, 2>::run};
extern const Bfloat16StemKernel kBfloat16StemAvx2 = {"stem_bf16_1x16_avx2", 16, StemConv<Avx2Bfloat16, 1, 2, 2>::run};

}  // namespace faceattr::cpu
