# The CUDA engine, twice: by nvcc for _core, and by the C++ compiler, with kernels on the host emulator, for
# _cuda_emulated. Sources that launch kernels are .cu.
set(FACEATTR_CUDA_SOURCES
  csrc/cuda/engine.cc
  csrc/cuda/memory.cc
  csrc/cuda/program.cc
  csrc/cuda/workspace.cc)
set(FACEATTR_CUDA_KERNELS
  csrc/cuda/kernels/contiguous.cu)
set(FACEATTR_EMULATOR_SOURCES
  csrc/cuda/emulator/fiber.cc
  csrc/cuda/emulator/grid.cc
  csrc/cuda/emulator/machine.cc
  csrc/cuda/emulator/matrix.cc
  csrc/cuda/emulator/memory.cc
  csrc/cuda/emulator/wgmma.cc)
list(TRANSFORM FACEATTR_CUDA_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/)
list(TRANSFORM FACEATTR_CUDA_KERNELS PREPEND ${CMAKE_SOURCE_DIR}/)
list(TRANSFORM FACEATTR_EMULATOR_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/)

# FACEATTR_CUDA: whether nvcc builds the engine too.
if(NOT FACEATTR_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # The runtime is linked statically and finds the driver when it is first called: the module needs no library of CUDA.
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
