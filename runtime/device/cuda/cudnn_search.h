// The way from a graph of cuDNN's operations to a plan that is run. Private to cudnn_*.c.
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_SEARCH_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_SEARCH_H

#include "cudnn_library.h"
#include "cudnn_operations.h"

struct LsCudnn {
    cudnnHandle_t handle;   // NULL: the GPU is described
    LsCudnnGraph described; // holds `gpu`
    LsCudnnDescriptor gpu;
};

typedef struct LsCudnnSearch {
    LsCudnnGraph graph;   // tensors and operations, written down by the caller
    LsCudnnGraph process; // heuristics, their proposals, and the plan
    LsCudnnDescriptor plan;
    size_t bytes; // of the workspace
    int64_t engine;
} LsCudnnSearch;

// What a plan must not have or need.
typedef struct LsCudnnLimits {
    uint32_t notes; // numerical notes of an engine that are refused, a bit for each; nondeterminism always is
    size_t workspace;
    const char *what; // is planned, for messages
} LsCudnnLimits;

// Sets search->plan to the first proposal within the limits, and leaves NULL where there is none.
LsStatus ls_cudnn_search(LsCudnn *library, LsCudnnSearch *search, const LsCudnnLimits *limits);
void ls_cudnn_search_release(LsCudnnSearch *search);

// Enqueues the plan with ids 1 … count of its tensors in memory at `places`. `what`: for messages.
LsStatus ls_cudnn_execute(LsCudnn *library, const LsCudnnSearch *search, int64_t count, void *const places[],
    void *workspace, const char *what);

#endif
