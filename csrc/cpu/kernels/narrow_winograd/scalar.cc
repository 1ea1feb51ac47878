#include "cpu/kernels/narrow_winograd/bfloat16.h"
#include "cpu/kernels/narrow_winograd/quantized.h"
#include "cpu/simd/bfloat16_portable.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradScalar =
    quantized_winograd<PortableIntegers<4>, 8>("quantized_winograd2x2_scalar", "quantized_winograd4x4_scalar");
extern const Bfloat16WinogradKernel kBfloat16WinogradScalar = {{
    bfloat16_transforms<PortableBfloat16<4>, Winograd2x2Axis>("bfloat16_winograd2x2_scalar"),
    bfloat16_transforms<PortableBfloat16<4>, Winograd4x4Axis>("bfloat16_winograd4x4_scalar"),
    bfloat16_transforms<PortableBfloat16<4>, Winograd5x5Axis>("bfloat16_winograd5x5_scalar"),
    bfloat16_transforms<PortableBfloat16<4>, Polyphase4x4Axis>("bfloat16_polyphase4x4_scalar"),
}};

}  // namespace faceattr::cpu
