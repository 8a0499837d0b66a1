// What the stand-ins for cuDNN share.
#ifndef LOCKSTEP_EMULATOR_STANDINS_CUDNN_H
#define LOCKSTEP_EMULATOR_STANDINS_CUDNN_H

#include <stdbool.h>
#include <stddef.h>

#include "cudnn_library.h"

struct LsCudnn {
    cudaStream_t stream;
};

// Whether EMULATED_CUDNN is that.
bool ls_emulated_cudnn_is(const char *value);

// The library relies on what its caller promised, and so faults otherwise.
void ls_emulated_cudnn_require(const char *what, const void *memory, size_t bytes, size_t alignment);

#endif
