// The thin layer over cuDNN's convolutions: what it can be asked, without any policy.
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_CONVOLUTION_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_CONVOLUTION_H

#include "cudnn_library.h"
#include "device/image_operations.h"

typedef enum LsConvolutionPass {
    LS_CONVOLUTION_FORWARD,
    LS_CONVOLUTION_DATA,
    LS_CONVOLUTION_WEIGHTS,
} LsConvolutionPass;

// The gradient of filters is rounded to the type of the others: the library has compiled kernels for that,
// and with an F32 result only what it compiles itself, some seconds for each shape (cuDNN 9.19).
//
// All that the library's choice of a kernel depends on, for a GPU. Kinds are compared as bytes.
typedef struct LsConvolutionKind {
    uint64_t rows, height, width, in, out;
    uint64_t kernel, stride, padding;
    uint32_t pass; // LsConvolutionPass
    uint32_t type; // LsDtype of x, filters and y, and of their gradients
    uint64_t tf32; // FP32 numbers may be rounded to it
} LsConvolutionKind;

// Of the three, the pass computes one of the other two. Addresses are multiples of LS_CUDNN_ALIGNMENT.
typedef struct LsConvolutionBuffers {
    void *x, *weight, *y; // or the gradients in their places
    void *workspace;      // ls_cudnn_convolution_workspace bytes, of the one call
} LsConvolutionBuffers;

typedef struct LsCudnnConvolutionPlan LsCudnnConvolutionPlan;

// The first plan that the library proposes, gives the same bits on every run, sums products of the numbers as
// they are (no Fourier transforms, none of Winograd's), in F32, and needs no more workspace than that. *out
// is NULL where there is none.
LsStatus ls_cudnn_convolution_plan(
    LsCudnn *library, const LsConvolutionKind *kind, size_t most_workspace, LsCudnnConvolutionPlan **out);
void ls_cudnn_convolution_forget(LsCudnnConvolutionPlan *plan); // NULL is fine
size_t ls_cudnn_convolution_workspace(const LsCudnnConvolutionPlan *plan);

// For the log: "engine 6".
void ls_cudnn_convolution_describe(const LsCudnnConvolutionPlan *plan, char *text, size_t size);

// Enqueues it. Allocates nothing on the GPU, and may be recorded in a graph.
LsStatus ls_cudnn_convolution_run(
    LsCudnn *library, LsCudnnConvolutionPlan *plan, const LsConvolutionBuffers *buffers);

#endif
