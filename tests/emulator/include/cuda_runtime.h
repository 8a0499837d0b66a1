// The kernel language of CUDA for a host compiler: with this header on the include path in place of NVIDIA's,
// g++ compiles a .cu file as C++17 and the emulated GPU runs its kernels (README.md beside emulator.h).
// Launch with cudaLaunchKernelEx; <<< >>> is no C++.
//
// One thing cannot be spelled as in CUDA: `extern __shared__ T name[];`. A .cu file that needs dynamic shared
// memory says LS_DYNAMIC_SHARED(T, name); and defines that macro for nvcc only:
//
//     #ifndef LS_DYNAMIC_SHARED // the emulated GPU has its own
//     #define LS_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
//     #endif
//
// (With nvcc all uses of one name in a file must agree in type.) What is left out is left out on purpose:
// float atomics, whose order of addition no program fixes, and __activemask, which promises nothing.
#ifndef LOCKSTEP_EMULATOR_CUDA_RUNTIME_H
#define LOCKSTEP_EMULATOR_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus

#define __host__
#define __device__
#define __global__ __attribute__((unused))
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

// The tag becomes part of the variable's name in the symbol table (tile[abi:shared]), by which the emulator
// finds all such variables to fill them before each block. A section would be lost in templates.
#define __shared__ static __attribute__((abi_tag("shared")))
#define LS_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(ls_emulator_dynamic_shared())

#include <kernel_vectors.h>

#include <kernel_math.h>

#include <kernel_threads.h>

#include <kernel_matrix.h>

#include <kernel_launch.h>

#endif

#endif
