#include "cpu/kernels/quantized_winograd/generic.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradScalar = {"quantized_winograd2x2_scalar",
                                                                 QuantizedWinograd<PortableIntegers<4>, 8>::input,
                                                                 QuantizedWinograd<PortableIntegers<4>, 8>::output};

}  // namespace faceattr::cpu
