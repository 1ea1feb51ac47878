#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/bfloat16_avx512.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

// 32 registers: 14 x 2 sums, 2 of weights, 1 broadcast, 1 product before it is added. For bfloat16 12 x 2 sums, 4
// halves of weights, 2 of a broadcast.
extern const QuantizedConvKernel kQuantizedConvAvx512 = {"quantized_conv_s16_14x32_avx512", 32,
                                                         NarrowConv<Avx512Integers, 14, 2>::run};
extern const PairConvKernel kPairConvAvx512 = {"quantized_conv_s16_14x32_avx512", 32,
                                               NarrowConv<Avx512Integers, 14, 2>::run};
extern const Bfloat16ConvKernel kBfloat16ConvAvx512 = {"bfloat16_conv_12x32_avx512", 32,
                                                       NarrowConv<Avx512Bfloat16, 12, 2>::run};

}  // namespace faceattr::cpu
