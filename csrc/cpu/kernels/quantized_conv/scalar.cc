#include "cpu/kernels/quantized_conv/generic.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

// As many registers as SSE2 has, and no more: 4 x 2 sums, 2 of weights, 1 broadcast.
extern const QuantizedConvKernel kQuantizedConvS16Scalar = {"quantized_conv_s16_4x8_scalar", 8,
                                                            QuantizedConv<PortableIntegers<4>, 4, 2>::run};

}  // namespace faceattr::cpu
