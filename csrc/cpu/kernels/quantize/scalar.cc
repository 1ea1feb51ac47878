#include "cpu/kernels/quantize/generic.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

extern const QuantizeKernel kQuantizeF32Scalar = {"quantize_f32_scalar", Quantize<PortableIntegers<4>>::run};

}  // namespace faceattr::cpu
