#include "cpu/kernels/stem_winograd/generic.h"
#include "cpu/simd/bfloat16_portable.h"

namespace faceattr::cpu {

// Four sums are what every target's baseline has.
extern const StemWinogradKernel kStemWinogradScalar =
    stem_winograd<StemWinograd<PortableBfloat16<4>, 4, 2>>("stem_polyphase4x4_f32_scalar");

}  // namespace faceattr::cpu
