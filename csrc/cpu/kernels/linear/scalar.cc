#include "cpu/kernels/linear/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const LinearKernel kLinearF32Scalar = {"linear_f32_1x8_scalar", Linear<PortableF32<4>>::kPanel, 1,
                                              Linear<PortableF32<4>>::run, Linear<PortableF32<4>>::run_half};

}  // namespace faceattr::cpu
