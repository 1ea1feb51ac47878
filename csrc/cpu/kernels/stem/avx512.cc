#include "cpu/kernels/stem/generic.h"
#include "cpu/kernels/stem/triples_avx512.h"

namespace faceattr::cpu {

extern const StemKernel kStemF32Avx512 = {"stem_f32_avx512",
                                          Stem::load_u8,
                                          Stem::load_f32,
                                          Stem::load_u8_integers,
                                          load_f32_integers_avx512,
                                          load_f32_bytes_avx512,
                                          Stem::integers_to_bfloat16};

}  // namespace faceattr::cpu
