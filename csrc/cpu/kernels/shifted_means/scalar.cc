#include "cpu/kernels/shifted_means/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const ShiftedMeansKernel kShiftedMeansF32Scalar = {"shifted_means_f32_scalar", ShiftedMeans<PortableF32<4>>::run,
                                                          ShiftedMeans<PortableF32<4>>::run_integers,
                                                          ShiftedMeans<PortableF32<4>>::run_bfloat16};

}  // namespace faceattr::cpu
