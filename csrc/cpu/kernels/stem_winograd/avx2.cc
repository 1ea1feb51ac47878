#include "cpu/simd/avx2.h"
#include "cpu/kernels/stem_winograd/generic.h"
#include "cpu/simd/bfloat16_avx2.h"

namespace faceattr::cpu {

// 16 registers: 4 tiles by 2 vectors of sums, 2 of weights, 1 broadcast.
extern const StemWinogradKernel kStemWinogradAvx2 =
    stem_winograd<StemWinograd<Avx2Bfloat16, 4, 2>>("stem_polyphase4x4_f32_avx2");

}  // namespace faceattr::cpu
