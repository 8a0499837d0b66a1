// The thin layer over cuDNN: the library itself, opened. cudnn_*.c are the only files that know it; the
// emulated build has stand-ins for them (tests/emulator/standins), and a build without its headers one that
// never has it (no_cudnn).
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_LIBRARY_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_LIBRARY_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "device/operations.h"

// What the addresses of all tensors of 16-bit numbers are multiples of.
enum { LS_CUDNN_ALIGNMENT = 16 };

typedef struct LsCudnn LsCudnn;

// "cuDNN 9.19.0 (NVRTC 13.0)", of the libraries that are loaded, or why there is none. Both decide bits: the
// kernels are compiled when a plan is made.
void ls_cudnn_version(char *text, size_t size);

// Whether the library is there and new enough. Where it is, that it cannot be opened is a failure, and no
// reason to do without: other ranks would not.
bool ls_cudnn_is_there(void);

// It is used on one stream.
LsStatus ls_cudnn_open(cudaStream_t stream, LsCudnn **out);
void ls_cudnn_close(LsCudnn *library); // NULL is fine; plans are forgotten before

// For a GPU that need not be here, from the library's own description of it (JSON): plans are made and cannot
// be run. For tests.
LsStatus ls_cudnn_open_described(const char *gpu, LsCudnn **out);

#endif
