#include "cpu/kernels/quantized_conv/generic.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

// 16 registers: 6 x 2 sums, 2 of weights, 1 broadcast, 1 product before it is added.
extern const QuantizedConvKernel kQuantizedConvS16Avx2 = {"quantized_conv_s16_6x16_avx2", 16,
                                                          QuantizedConv<Avx2Integers, 6, 2>::run};

}  // namespace faceattr::cpu
