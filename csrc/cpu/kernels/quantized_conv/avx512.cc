#include "cpu/kernels/quantized_conv/generic.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

// 32 registers: 14 x 2 sums, 2 of weights, 1 broadcast, 1 product before it is added.
extern const QuantizedConvKernel kQuantizedConvS16Avx512 = {"quantized_conv_s16_14x32_avx512", 32,
                                                            QuantizedConv<Avx512Integers, 14, 2>::run};

}  // namespace faceattr::cpu
