#include "cpu/kernels/stem_conv/generic.h"
#include "cpu/simd/bfloat16_portable.h"
#include "cpu/simd/integers_portable.h"

namespace faceattr::cpu {

// Four sums are what every target's baseline has; 4 outputs by 2 vectors leave some of 16 registers for the products.
#if defined(__aarch64__)
// 32 registers: 3 x 4 outputs by 2 vectors, 2 of weights, 1 broadcast.
extern const FloatStemKernel kFloatStemScalar = {"stem_f32_3x8_scalar", 8,
                                                 StemConv<FloatSums<PortableF32<4>>, 3, 2, 1>::run};
#else
extern const FloatStemKernel kFloatStemScalar = {"stem_f32_1x8_scalar", 8,
                                                 StemConv<FloatSums<PortableF32<4>>, 1, 2, 1>::run};
#endif
extern const PairStemKernel kPairStemScalar = {"stem_s16_1x8_scalar", 8, StemConv<PortableIntegers<4>, 1, 2, 2>::run};
extern const QuadStemKernel kQuadStemScalar = {"stem_u8_1x8_scalar", 8, StemConv<PortableIntegers<4>, 1, 2, 4>::run};
extern const Bfloat16StemKernel kBfloat16StemScalar = {"stem_bf16_1x8_scalar", 8,
                                                       StemConv<PortableBfloat16<4>, 1, 2, 2>::run};

}  // namespace faceattr::cpu
