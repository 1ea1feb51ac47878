#include "cpu/kernels/quantized_winograd/generic.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradAvx2 = {"quantized_winograd2x2_avx2",
                                                               QuantizedWinograd<Avx2Integers, 16>::input,
                                                               QuantizedWinograd<Avx2Integers, 16>::output};

}  // namespace faceattr::cpu
