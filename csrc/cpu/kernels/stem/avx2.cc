#include "cpu/simd/avx2.h"
#include "cpu/kernels/stem/generic.h"

namespace faceattr::cpu {

extern const StemKernel kStemF32Avx2 = {"stem_f32_avx2",
                                        Stem<Avx2F32>::load_u8,
                                        Stem<Avx2F32>::load_f32,
                                        Stem<Avx2F32>::max_pool,
                                        Stem<Avx2F32>::load_u8_integers,
                                        Stem<Avx2F32>::load_f32_integers,
                                        Stem<Avx2F32>::integers_to_bfloat16,
                                        Stem<Avx2F32>::max_pool_integers,
                                        Stem<Avx2F32>::max_pool_integers};

}  // namespace faceattr::cpu
