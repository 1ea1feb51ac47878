# What runs a plan on a GPU: host code, and launches of kernels, which nvcc compiles for the device (each has a .cu that
# includes it) and any other compiler for the emulator.
set(FACEATTR_CUDA_PROGRAM csrc/cuda/hopper/resident_run.cc csrc/cuda/memory.cc csrc/cuda/packing.cc csrc/cuda/program.cc
    csrc/cuda/tiles.cc)
set(FACEATTR_CUDA_LAUNCHES csrc/cuda/kernels/launch_conv_bfloat16.cc csrc/cuda/kernels/launch_conv_float16.cc
    csrc/cuda/kernels/launch_conv_integer8.cc csrc/cuda/kernels/launch_others.cc)
# For sm_90a alone: what these use exists on no other.
set(FACEATTR_CUDA_HOPPER_LAUNCHES csrc/cuda/hopper/launch_resident.cc csrc/cuda/hopper/launch_wgmma_stem.cc)
