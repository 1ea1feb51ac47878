#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/bfloat16_avx512.h"

namespace faceattr::cpu {

// VDPBF16PS multiplies a pair and adds both products: 14 x 2 sums, 2 of weights, 1 broadcast of 32 registers.
extern const Bfloat16ConvKernel kBfloat16ConvAvx512Bf16 = {"bfloat16_conv_14x32_avx512bf16", 32,
                                                           NarrowConv<Avx512Bfloat16, 14, 2>::run};

}  // namespace faceattr::cpu
