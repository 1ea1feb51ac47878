#include "cpu/kernels/quantize/generic.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

extern const QuantizeKernel kQuantizeF32Avx512 = {"quantize_f32_avx512", Quantize<Avx512Integers>::run};

}  // namespace faceattr::cpu
