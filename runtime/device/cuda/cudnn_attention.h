// The thin layer over cuDNN's attention: what it can be asked, without any policy.
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_ATTENTION_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_ATTENTION_H

#include "cudnn_library.h"

// All that the library's choice of a kernel depends on, for a GPU: LsAttention or LsAttentionBackward. Kinds
// are compared as bytes.
typedef struct LsAttentionKind {
    uint64_t windows, window, heads, size;
    uint32_t type; // LsDtype
    uint32_t backward;
} LsAttentionKind;

// As the ops have them; out and log_sum are read by backward. Addresses of all but log_sum are multiples of
// LS_CUDNN_ALIGNMENT.
typedef struct LsAttentionBuffers {
    const void *qkv;
    void *out;
    float *log_sum;
    const void *dout;
    void *dqkv;
    void *workspace; // ls_cudnn_workspace bytes, of the one call
} LsAttentionBuffers;

typedef struct LsCudnnPlan LsCudnnPlan;

// The first plan that the library proposes, gives the same bits on every run, and needs no more workspace
// than that. *out is NULL where there is none. Takes about a second, in which a kernel is compiled.
LsStatus ls_cudnn_plan(
    LsCudnn *library, const LsAttentionKind *kind, size_t most_workspace, LsCudnnPlan **out);
void ls_cudnn_forget(LsCudnnPlan *plan); // NULL is fine
size_t ls_cudnn_workspace(const LsCudnnPlan *plan);

// For the log: "engine 6".
void ls_cudnn_describe(const LsCudnnPlan *plan, char *text, size_t size);

// Enqueues it. Allocates nothing on the GPU, and may be recorded in a graph.
LsStatus ls_cudnn_run(LsCudnn *library, LsCudnnPlan *plan, const LsAttentionBuffers *buffers);

#endif
