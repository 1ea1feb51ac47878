#include "cpu/simd/avx512.h"
#include "cpu/kernels/stem/generic.h"

namespace faceattr::cpu {

extern const StemKernel kStemF32Avx512 = {"stem_f32_avx512",
                                          Stem<Avx512F32>::load_u8,
                                          Stem<Avx512F32>::load_f32,
                                          Stem<Avx512F32>::max_pool,
                                          Stem<Avx512F32>::load_u8_integers,
                                          Stem<Avx512F32>::load_f32_integers,
                                          Stem<Avx512F32>::integers_to_bfloat16,
                                          Stem<Avx512F32>::max_pool_integers,
                                          Stem<Avx512F32>::max_pool_integers};

}  // namespace faceattr::cpu
