#include "cpu/kernels/stem/generic.h"

namespace faceattr::cpu {

extern const StemKernel kStemF32Avx2 = {"stem_f32_avx2",           Stem::load_u8,           Stem::load_f32,
                                        Stem::load_u8_integers,    Stem::load_f32_integers, Stem::load_f32_bytes,
                                        Stem::integers_to_bfloat16};

}  // namespace faceattr::cpu
