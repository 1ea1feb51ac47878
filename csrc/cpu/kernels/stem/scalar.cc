#include "cpu/kernels/stem/generic.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {

extern const StemKernel kStemF32Scalar = {"stem_f32_scalar",
                                          Stem<PortableF32<4>>::load_u8,
                                          Stem<PortableF32<4>>::load_f32,
                                          Stem<PortableF32<4>>::max_pool,
                                          Stem<PortableF32<4>>::load_u8_integers,
                                          Stem<PortableF32<4>>::load_f32_integers,
                                          Stem<PortableF32<4>>::integers_to_bfloat16,
                                          Stem<PortableF32<4>>::max_pool_integers,
                                          Stem<PortableF32<4>>::max_pool_integers};

}  // namespace faceattr::cpu
