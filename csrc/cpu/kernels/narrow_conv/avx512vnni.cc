#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

// VPDPBUSD multiplies four bytes and adds their products at once, VPDPWSSD a pair: 14 x 2 sums, 2 of weights, 1
// broadcast of 32 registers.
extern const QuantizedConvKernel kQuantizedConvAvx512Vnni = {
    "quantized_conv_u8_14x32_avx512vnni", 32, NarrowConv<Avx512Integers, 14, 2, 4>::run, sizeof(std::uint8_t)};
extern const PairConvKernel kPairConvAvx512Vnni = {"quantized_conv_s16_14x32_avx512vnni", 32,
                                                   NarrowConv<Avx512Integers, 14, 2>::run};

}  // namespace faceattr::cpu
