#include "cpu/kernels/segmented_conv/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

// Four floats are what every target's baseline has (SSE2, NEON): 6 x 2 of 16 registers, as in avx2.cc.
extern const SegmentedConvKernel kSegmentedConvF32Scalar = {"segmented_conv_f32_6x8_scalar", 8,
                                                            SegmentedConv<PortableF32<4>, 6, 2>::run};

}  // namespace faceattr::cpu
