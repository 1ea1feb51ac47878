#include "cpu/kernels/segmented_conv/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

// Four floats are what every target's baseline has (SSE2, NEON).
#if defined(__aarch64__)
// 32 registers: 8 x 2 accumulators, 8 positions' next four values, 2 weight vectors. 16 independent sums hide 4 cycles
// of latency at 4 multiply-adds a cycle, the most that cores have; 16 loads feed 64 multiply-adds.
extern const SegmentedConvKernel kSegmentedConvF32Scalar = {"segmented_conv_f32_8x8_scalar", 8,
                                                            SegmentedConv<PortableF32<4>, 8, 2, true>::run};
#else
// 16 registers: 6 x 2 accumulators, 2 weight vectors, 1 broadcast, 1 product on its way to a sum.
extern const SegmentedConvKernel kSegmentedConvF32Scalar = {"segmented_conv_f32_6x8_scalar", 8,
                                                            SegmentedConv<PortableF32<4>, 6, 2>::run};
#endif

}  // namespace faceattr::cpu
