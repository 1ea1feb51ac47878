#include "cpu/simd/avx2.h"
#include "cpu/kernels/shifted_means/generic.h"

namespace faceattr::cpu {

extern const ShiftedMeansKernel kShiftedMeansF32Avx2 = {"shifted_means_f32_avx2", ShiftedMeans<Avx2F32>::run,
                                                        ShiftedMeans<Avx2F32>::run_integers,
                                                        ShiftedMeans<Avx2F32>::run_bfloat16};

}  // namespace faceattr::cpu
