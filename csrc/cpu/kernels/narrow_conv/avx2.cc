#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/bfloat16_avx2.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

// 16 registers: 6 x 2 sums, 2 of weights, 1 broadcast, 1 product before it is added. For bfloat16 4 x 2 sums, 4 halves
// of weights, 2 of a broadcast.
extern const QuantizedConvKernel kQuantizedConvAvx2 = {"quantized_conv_s16_6x16_avx2", 16,
                                                       NarrowConv<Avx2Integers, 6, 2>::run};
extern const PairConvKernel kPairConvAvx2 = {"quantized_conv_s16_6x16_avx2", 16, NarrowConv<Avx2Integers, 6, 2>::run};
extern const Bfloat16ConvKernel kBfloat16ConvAvx2 = {"bfloat16_conv_4x16_avx2", 16,
                                                     NarrowConv<Avx2Bfloat16, 4, 2>::run};

}  // namespace faceattr::cpu
