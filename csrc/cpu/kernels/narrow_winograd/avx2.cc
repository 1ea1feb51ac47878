#include "cpu/kernels/narrow_winograd/bfloat16.h"
#include "cpu/kernels/narrow_winograd/quantized.h"
#include "cpu/simd/bfloat16_avx2.h"
#include "cpu/simd/integers_avx2.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradAvx2 =
    quantized_winograd<Avx2Integers, 16>("quantized_winograd2x2_avx2", "quantized_winograd4x4_avx2");
extern const Bfloat16WinogradKernel kBfloat16WinogradAvx2 = {{
    bfloat16_transforms<Avx2Bfloat16, Winograd2x2Axis>("bfloat16_winograd2x2_avx2"),
    bfloat16_transforms<Avx2Bfloat16, Winograd4x4Axis>("bfloat16_winograd4x4_avx2"),
    bfloat16_transforms<Avx2Bfloat16, Winograd5x5Axis>("bfloat16_winograd5x5_avx2"),
    bfloat16_transforms<Avx2Bfloat16, Polyphase4x4Axis>("bfloat16_polyphase4x4_avx2"),
}};

}  // namespace faceattr::cpu
