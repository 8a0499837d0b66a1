// Which convolutions are cuDNN's: a list of plans, one for each kind that has come. A plan is made when the
// first op of its kind comes and stays for the device's life, so that a kind always has the same bits.
#ifndef LOCKSTEP_DEVICE_CUDA_CONVOLUTION_PLANS_H
#define LOCKSTEP_DEVICE_CUDA_CONVOLUTION_PLANS_H

#include "cuda.h"
#include "cudnn_convolution.h"

LsStatus ls_convolution_plans_open(LsCudaDevice *cuda, LsConvolutionPlans **out);
void ls_convolution_plans_close(LsConvolutionPlans *plans); // NULL is fine

// What one op gives and gets; one of the three is written.
typedef struct LsConvolutionOperands {
    void *x, *weight, *y; // or the gradients in their places
    bool accumulate;      // of the gradient of filters, which is F32
} LsConvolutionOperands;

// Enqueues it and sets *done, if cuDNN has a plan for its kind; otherwise our kernels are to do it. The first
// op of a kind cannot be recorded in a graph.
LsStatus ls_convolution_by_library(LsConvolutionPlans *plans, const LsConvolutionKind *kind,
    const LsConvolutionOperands *operands, bool *done);

// For tests of our own kernels: cuDNN is not asked from now on, or is asked again.
void ls_convolution_plans_allow(LsConvolutionPlans *plans, bool library);

#endif
