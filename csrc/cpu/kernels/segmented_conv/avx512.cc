#include "cpu/simd/avx512.h"
#include "cpu/kernels/segmented_conv/generic.h"

namespace faceattr::cpu {

// 32 registers: 6 x 4 accumulators, 4 weight vectors, 1 broadcast; 10 loads per 24 multiply-adds. The network's widths
// are multiples of 64, and six pixel addresses fit the general registers.
extern const SegmentedConvKernel kSegmentedConvF32Avx512 = {"segmented_conv_f32_6x64_avx512", 64,
                                                            SegmentedConv<Avx512F32, 6, 4>::run};

}  // namespace faceattr::cpu
