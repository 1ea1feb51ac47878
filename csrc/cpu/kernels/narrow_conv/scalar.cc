#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/simd/bfloat16_portable.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

// Four sums are what every target's baseline has; 4 x 2 of 16 registers leave some to take pairs apart.
extern const QuantizedConvKernel kQuantizedConvScalar = {"quantized_conv_s16_4x8_scalar", 8,
                                                         NarrowConv<PortableIntegers<4>, 4, 2>::run};
extern const Bfloat16ConvKernel kBfloat16ConvScalar = {"bfloat16_conv_4x8_scalar", 8,
                                                       NarrowConv<PortableBfloat16<4>, 4, 2>::run};

}  // namespace faceattr::cpu
