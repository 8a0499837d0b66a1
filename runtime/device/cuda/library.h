// What attention and convolutions share on their way to cuDNN: the opened library, and operands that lie
// where it needs them.
#ifndef LOCKSTEP_DEVICE_CUDA_LIBRARY_H
#define LOCKSTEP_DEVICE_CUDA_LIBRARY_H

#include "cuda.h"
#include "cudnn_library.h"

// The library of this device, opened by the first call; *out is NULL where there is none.
LsStatus ls_cuda_library(LsCudaDevice *cuda, LsCudnn **out);

// An operand. The library relies on its alignment; what is less aligned, which is nothing of our models, is
// moved through scratch memory, so that the shape alone decides who computes.
typedef struct LsOperand {
    void *memory; // NULL: none
    size_t bytes;
    bool read;   // by the library; else written
    void *place; // where the library finds it
} LsOperand;

// Scratch memory of `bytes`, with places for what is moved behind it; copies what is read.
LsStatus ls_operands_place(
    LsCudaDevice *cuda, size_t bytes, LsOperand *operands, size_t count, void **scratch);

// Copies what was written to where it belongs.
LsStatus ls_operands_return(LsCudaDevice *cuda, const LsOperand *operands, size_t count);

#endif
