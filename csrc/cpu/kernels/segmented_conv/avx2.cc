#include "cpu/simd/avx2.h"
#include "cpu/kernels/segmented_conv/generic.h"

namespace faceattr::cpu {

// 16 registers: 6 x 2 accumulators, 2 weight vectors, 1 broadcast. 12 independent sums hide 4 cycles of latency at 2
// multiply-adds a cycle (8 are needed); 8 loads per 12 multiply-adds stay below 2 loads a cycle.
extern const SegmentedConvKernel kSegmentedConvF32Avx2 = {"segmented_conv_f32_6x16_avx2", 16,
                                                          SegmentedConv<Avx2F32, 6, 2>::run};

}  // namespace faceattr::cpu
