// The thin layer over cuDNN's attention: what it can be asked, without any policy. cudnn_attention.c and
// cudnn_operations.c are the only files that know the library; the emulated build has a stand-in for them
// (tests/emulator/standins/cudnn_attention.c), and a build without its headers one that never has it.
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_ATTENTION_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_ATTENTION_H

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "device/operations.h"

// All that the library's choice of a kernel depends on, for a GPU: LsAttention or LsAttentionBackward. Kinds
// are compared as bytes.
typedef struct LsAttentionKind {
    uint64_t windows, window, heads, size;
    uint32_t type; // LsDtype
    uint32_t backward;
} LsAttentionKind;

// As the ops have them; out and log_sum are read by backward.
typedef struct LsAttentionBuffers {
    const void *qkv;
    void *out;
    float *log_sum;
    const void *dout;
    void *dqkv;
    void *workspace; // ls_cudnn_workspace bytes, of the one call
} LsAttentionBuffers;

// What the addresses of all buffers but log_sum are multiples of.
enum { LS_CUDNN_ALIGNMENT = 16 };

typedef struct LsCudnn LsCudnn;
typedef struct LsCudnnPlan LsCudnnPlan;

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
