// Compiles the test kernels for Hopper, and so every primitive that it adds.
#include "cuda_kernels_sm90.h"

namespace faceattr::cuda {
template void launch<test::Wgmma<Float16, 200>>(const LaunchConfig&, const test::Wgmma<Float16, 200>::Params&);
template void launch<test::Wgmma<Float16, 64>>(const LaunchConfig&, const test::Wgmma<Float16, 64>::Params&);
template void launch<test::Wgmma<Float16, 256>>(const LaunchConfig&, const test::Wgmma<Float16, 256>::Params&);
template void launch<test::Wgmma<Bfloat16, 112>>(const LaunchConfig&, const test::Wgmma<Bfloat16, 112>::Params&);
template void launch<test::Wgmma<Float8E4m3, 120>>(const LaunchConfig&, const test::Wgmma<Float8E4m3, 120>::Params&);
template void launch<test::Wgmma<int8_t, 208>>(const LaunchConfig&, const test::Wgmma<int8_t, 208>::Params&);
template void launch<test::Wgmma<uint8_t, 64>>(const LaunchConfig&, const test::Wgmma<uint8_t, 64>::Params&);
template void launch<test::StoreMatrix>(const LaunchConfig&, const test::StoreMatrix::Params&);
template void launch<test::Cluster>(const LaunchConfig&, const test::Cluster::Params&);
template void launch<test::Pipeline<test::Fault::kNone>>(const LaunchConfig&,
                                                         const test::Pipeline<test::Fault::kNone>::Params&);
}  // namespace faceattr::cuda
