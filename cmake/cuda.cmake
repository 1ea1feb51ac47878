# What runs a plan on a GPU: host code, and launches of kernels, which nvcc compiles for the device (each has a .cu that
# includes it) and any other compiler for the emulator.
set(FACEATTR_CUDA_SOURCES device_memory.cc engine.cc hopper/resident_run.cc hopper/row_conv_phase.cc memory.cc packing.cc
    prepared.cc program.cc tiles.cc workspace.cc)
set(FACEATTR_CUDA_LAUNCHES contiguous launch_conv_bfloat16 launch_conv_float16 launch_conv_integer8 launch_others)
set(FACEATTR_CUDA_HOPPER_LAUNCHES launch_resident launch_row_conv launch_wgmma_stem)  # for sm_90a alone
set(FACEATTR_EMULATOR_SOURCES fiber.cc grid.cc machine.cc matrix.cc memory.cc wgmma.cc)

# FACEATTR_CUDA: whether nvcc builds them for _core.
if(NOT FACEATTR_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # The runtime is linked statically and finds the driver when it is first called: no library of CUDA is needed.
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 90-virtual)  # newer ones compile from the last
    endif()
    enable_language(CUDA)
    set(FACEATTR_CUDA_FOUND ON)
  elseif(FACEATTR_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FACEATTR_CUDA is ON, but no nvcc was found: set CMAKE_CUDA_COMPILER")
  endif()
endif()
