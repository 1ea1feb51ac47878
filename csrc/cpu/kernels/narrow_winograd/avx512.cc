#include "cpu/kernels/narrow_winograd/bfloat16.h"
#include "cpu/kernels/narrow_winograd/quantized.h"
#include "cpu/simd/bfloat16_avx512.h"
#include "cpu/simd/integers_avx512.h"

namespace faceattr::cpu {

extern const QuantizedWinogradKernel kQuantizedWinogradAvx512 =
    quantized_winograd<Avx512Integers, 32>("quantized_winograd2x2_avx512", "quantized_winograd4x4_avx512");
extern const Bfloat16WinogradKernel kBfloat16WinogradAvx512 = {{
    bfloat16_transforms<Avx512Bfloat16, Winograd2x2Axis>("bfloat16_winograd2x2_avx512"),
    bfloat16_transforms<Avx512Bfloat16, Winograd4x4Axis>("bfloat16_winograd4x4_avx512"),
    bfloat16_transforms<Avx512Bfloat16, Winograd5x5Axis>("bfloat16_winograd5x5_avx512"),
    bfloat16_transforms<Avx512Bfloat16, Polyphase4x4Axis>("bfloat16_polyphase4x4_avx512"),
}};

}  // namespace faceattr::cpu
