#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

// 3 x 4 outputs by 2 vectors of sums, 2 of weights, 1 broadcast, as in avx512.cc.
extern const PairStemKernel kPairStemAvx512Vnni = {"stem_s16_3x32_avx512vnni", 32,
                                                   StemConv<Avx512Integers, 3, 2, 2>::run};
extern const QuadStemKernel kQuadStemAvx512Vnni = {"stem_u8_3x32_avx512vnni", 32,
                                                   StemConv<Avx512Integers, 3, 2, 4>::run};

}  // namespace faceattr::cpu
