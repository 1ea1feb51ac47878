#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/bfloat16_portable.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

// Four sums are what every target's baseline has; 4 x 2 of 16 registers leave some to take pairs and fours apart. That
// takes about as many operations per product of either, and bytes are half the memory.
extern const QuantizedConvKernel kQuantizedConvScalar = {
    "quantized_conv_u8_4x8_scalar", 8, NarrowConv<PortableIntegers<4>, 4, 2, 4>::run, sizeof(std::uint8_t)};
extern const PairConvKernel kPairConvScalar = {"quantized_conv_s16_4x8_scalar", 8,
                                               NarrowConv<PortableIntegers<4>, 4, 2>::run};
extern const Bfloat16ConvKernel kBfloat16ConvScalar = {"bfloat16_conv_4x8_scalar", 8,
                                                       NarrowConv<PortableBfloat16<4>, 4, 2>::run};

}  // namespace faceattr::cpu
