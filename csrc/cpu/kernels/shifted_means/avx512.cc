#include "cpu/simd/avx512.h"
#include "cpu/kernels/shifted_means/generic.h"

namespace faceattr::cpu {

extern const ShiftedMeansKernel kShiftedMeansF32Avx512 = {"shifted_means_f32_avx512", ShiftedMeans<Avx512F32>::run,
                                                          ShiftedMeans<Avx512F32>::run_integers,
                                                          ShiftedMeans<Avx512F32>::run_bfloat16};

}  // namespace faceattr::cpu
