#include "cpu/simd/avx512.h"
#include "cpu/kernels/stem_winograd/generic.h"
#include "cpu/simd/bfloat16_avx512.h"

namespace faceattr::cpu {

// 7 tiles by 2 vectors of sums: the 28 of a row of 224 pixels are four blocks, and the products of one take 43 KiB.
extern const StemWinogradKernel kStemWinogradAvx512 =
    stem_winograd<StemWinograd<Avx512Bfloat16, 7, 2>>("stem_polyphase4x4_f32_avx512");

}  // namespace faceattr::cpu
