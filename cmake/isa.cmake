# Instruction sets: name, the flags that its kernels are compiled with. Every set has an object library of its own, so that no
# instruction leaks into code that runs everywhere. Keep in step with csrc/cpu/cpu_features.cc.
set(FACEATTR_ISA_scalar "")  # the target's baseline: SSE2 on x86-64, NEON with FMA on aarch64
set(FACEATTR_ISA_avx2 -mavx2 -mfma -mf16c)
set(FACEATTR_ISA_avx512 ${FACEATTR_ISA_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC before 13 takes the undefined operand inside its own _mm512_max_ps for a mistake of ours.
  list(APPEND FACEATTR_ISA_avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
endif()

set(FACEATTR_ISA_avx512bf16 ${FACEATTR_ISA_avx512} -mavx512bf16)
set(FACEATTR_ISA_avx512vnni ${FACEATTR_ISA_avx512} -mavx512vnni)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(FACEATTR_X86 ON)
  set(FACEATTR_ISAS scalar avx2 avx512 avx512bf16 avx512vnni)
else()
  set(FACEATTR_X86 OFF)
  set(FACEATTR_ISAS scalar)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC would order the loads of a tile before it gives out registers, hold too many values at once and spill; afterwards
  # (-fschedule-insns2) it may. On x86 it does only that.
  list(APPEND FACEATTR_ISA_scalar -fno-schedule-insns)
endif()

set(FACEATTR_KERNEL_FAMILIES segmented_conv narrow_conv quantize narrow_winograd winograd shifted_means linear stem
  stem_conv stem_winograd)

# Adds one object library per instruction set and lists them in `objects`.
function(faceattr_add_kernels objects)
  set(all "")
  foreach(isa IN LISTS FACEATTR_ISAS)
    set(sources "")
    foreach(family IN LISTS FACEATTR_KERNEL_FAMILIES)
      set(source ${CMAKE_SOURCE_DIR}/csrc/cpu/kernels/${family}/${isa}.cc)
      if(EXISTS ${source})  # a family need not have a kernel for every set
        list(APPEND sources ${source})
      endif()
    endforeach()
    add_library(faceattr_kernels_${isa} OBJECT ${sources})
    target_include_directories(faceattr_kernels_${isa} PRIVATE ${CMAKE_SOURCE_DIR}/csrc)
    target_compile_options(faceattr_kernels_${isa} PRIVATE -O3 ${FACEATTR_ISA_${isa}})
    target_link_libraries(faceattr_kernels_${isa} PRIVATE faceattr_options)
    list(APPEND all $<TARGET_OBJECTS:faceattr_kernels_${isa}>)
  endforeach()
  set(${objects} ${all} PARENT_SCOPE)
endfunction()
