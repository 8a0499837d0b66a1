// Which attention is cuDNN's: a table of plans, one for each kind that has come. A plan is made when the
// first op of its kind comes and stays for the device's life, so that a kind always has the same bits.
#ifndef LOCKSTEP_DEVICE_CUDA_ATTENTION_PLANS_H
#define LOCKSTEP_DEVICE_CUDA_ATTENTION_PLANS_H

#include "cuda.h"
#include "cudnn_attention.h"

LsStatus ls_attention_plans_open(LsCudaDevice *cuda, LsAttentionPlans **out);
void ls_attention_plans_close(LsAttentionPlans *plans); // NULL is fine

// Enqueues it and sets *done, if cuDNN has a plan for its kind; otherwise our kernels are to do it. The first
// op of a kind cannot be recorded in a graph. buffers->workspace is not looked at.
LsStatus ls_attention_by_library(
    LsAttentionPlans *plans, const LsAttentionKind *kind, const LsAttentionBuffers *buffers, bool *done);

// For tests of our own kernels: cuDNN is not asked from now on, or is asked again.
void ls_attention_plans_allow(LsAttentionPlans *plans, bool library);

#endif
