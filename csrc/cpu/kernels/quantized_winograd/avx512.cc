#include "cpu/kernels/quantized_winograd/generic.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradAvx512 = {"quantized_winograd2x2_avx512",
                                                                 QuantizedWinograd<Avx512Integers, 32>::input,
                                                                 QuantizedWinograd<Avx512Integers, 32>::output};

}  // namespace faceattr::cpu
