// Compiles the portable test kernels, and so every portable primitive, for a device.
#include "cuda_kernels.h"

namespace faceattr::cuda {
template void launch<test::LoadMatrix>(const LaunchConfig&, const test::LoadMatrix::Params&);
template void launch<test::Mma<Float16>>(const LaunchConfig&, const test::Mma<Float16>::Params&);
template void launch<test::Mma<Bfloat16>>(const LaunchConfig&, const test::Mma<Bfloat16>::Params&);
template void launch<test::Mma<int8_t>>(const LaunchConfig&, const test::Mma<int8_t>::Params&);
template void launch<test::Mma<uint8_t>>(const LaunchConfig&, const test::Mma<uint8_t>::Params&);
template void launch<test::Shuffles>(const LaunchConfig&, const test::Shuffles::Params&);
template void launch<test::Ring<true>>(const LaunchConfig&, const test::Ring<true>::Params&);
template void launch<test::Handover>(const LaunchConfig&, const test::Handover::Params&);
template void launch<test::GridBarrier>(const LaunchConfig&, const test::GridBarrier::Params&);
template void launch<test::Scalars>(const LaunchConfig&, const test::Scalars::Params&);
}  // namespace faceattr::cuda
