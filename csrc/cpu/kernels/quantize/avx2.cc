#include "cpu/kernels/quantize/generic.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

extern const QuantizeKernel kQuantizeF32Avx2 = {"quantize_f32_avx2", Quantize<Avx2Integers>::run};

}  // namespace faceattr::cpu
