// cuDNN's graph interface in small: the functions of the library, and descriptors of tensors and operations.
// Private to cudnn_*.c. NVIDIA documents the interface as the "cuDNN backend API".
#ifndef LOCKSTEP_DEVICE_CUDA_CUDNN_OPERATIONS_H
#define LOCKSTEP_DEVICE_CUDA_CUDNN_OPERATIONS_H

#include <stdbool.h>

#include <cudnn_graph.h>

#include "base/status.h"

#define CUDNN_FUNCTIONS(X)                                                                                   \
    X(BackendCreateDescriptor)                                                                               \
    X(BackendDestroyDescriptor)                                                                              \
    X(BackendExecute)                                                                                        \
    X(BackendFinalize)                                                                                       \
    X(BackendGetAttribute)                                                                                   \
    X(BackendSetAttribute)                                                                                   \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(GetCudartVersion)                                                                                      \
    X(GetErrorString)                                                                                        \
    X(GetLastErrorString)                                                                                    \
    X(GetVersion)                                                                                            \
    X(SetStream)

typedef struct LsCudnnFunctions {
#define FUNCTION_MEMBER(name) __typeof__(&cudnn##name) name;
    CUDNN_FUNCTIONS(FUNCTION_MEMBER)
#undef FUNCTION_MEMBER
} LsCudnnFunctions;

// Filled by ls_cudnn_load.
extern LsCudnnFunctions ls_cudnn;

// Loads the library and the compiler that it uses, once. LS_UNAVAILABLE if one is missing or too old; the
// next call tries again.
LsStatus ls_cudnn_load(void);

// The version of the compiler: {major, minor}.
extern int ls_cudnn_nvrtc[2];

// LS_OK, or a line that names what failed and why.
LsStatus ls_cudnn_check(cudnnStatus_t status, const char *what);

typedef cudnnBackendDescriptor_t LsCudnnDescriptor;

enum { LS_CUDNN_DESCRIPTORS = 160, LS_CUDNN_OPERATIONS = 32 };

// Descriptors that live together. The first call that fails is remembered, and all calls after it do nothing
// and give NULL, so that a graph is written down without looking at each.
typedef struct LsCudnnGraph {
    cudnnStatus_t status;
    LsCudnnDescriptor descriptors[LS_CUDNN_DESCRIPTORS]; // all of them, in the order of their creation
    size_t count;
    LsCudnnDescriptor operations[LS_CUDNN_OPERATIONS];
    size_t operation_count;
    int64_t virtual_tensors;
} LsCudnnGraph;

void ls_cudnn_graph_release(LsCudnnGraph *graph);

LsCudnnDescriptor ls_cudnn_create(LsCudnnGraph *graph, cudnnBackendDescriptorType_t type);
void ls_cudnn_set(LsCudnnGraph *graph, LsCudnnDescriptor descriptor, cudnnBackendAttributeName_t attribute,
    cudnnBackendAttributeType_t type, int64_t count, const void *values);
void ls_cudnn_set_descriptor(LsCudnnGraph *graph, LsCudnnDescriptor descriptor,
    cudnnBackendAttributeName_t attribute, LsCudnnDescriptor value);
void ls_cudnn_finalize(LsCudnnGraph *graph, LsCudnnDescriptor descriptor);

// Four dimensions each: windows, heads, and a matrix; or images, channels, and their sides.
typedef struct LsCudnnLayout {
    int64_t sizes[4], strides[4];
} LsCudnnLayout;

// A tensor in memory, known to the caller by its id (from 1 to 99); one between operations, which is nowhere
// in memory; a float that is read from the host when the plan is run.
LsCudnnDescriptor ls_cudnn_tensor(
    LsCudnnGraph *graph, int64_t id, cudnnDataType_t type, const LsCudnnLayout *layout, int64_t alignment);
LsCudnnDescriptor ls_cudnn_between(LsCudnnGraph *graph, cudnnDataType_t type, const LsCudnnLayout *layout);
LsCudnnDescriptor ls_cudnn_scalar(LsCudnnGraph *graph, int64_t id);

// Operations compute in F32, comparisons in booleans. Each gives its output.
LsCudnnDescriptor ls_cudnn_matmul(
    LsCudnnGraph *graph, LsCudnnDescriptor a, LsCudnnDescriptor b, LsCudnnDescriptor out);
LsCudnnDescriptor ls_cudnn_pointwise(LsCudnnGraph *graph, cudnnPointwiseMode_t mode, LsCudnnDescriptor a,
    LsCudnnDescriptor b, LsCudnnDescriptor out); // b NULL: of one input
LsCudnnDescriptor ls_cudnn_index(
    LsCudnnGraph *graph, int64_t axis, LsCudnnDescriptor like, LsCudnnDescriptor out);
LsCudnnDescriptor ls_cudnn_select(LsCudnnGraph *graph, LsCudnnDescriptor condition, LsCudnnDescriptor yes,
    LsCudnnDescriptor no, LsCudnnDescriptor out);
LsCudnnDescriptor ls_cudnn_reduce(
    LsCudnnGraph *graph, cudnnReduceTensorOp_t mode, LsCudnnDescriptor a, LsCudnnDescriptor out);
LsCudnnDescriptor ls_cudnn_reshape(LsCudnnGraph *graph, LsCudnnDescriptor a, LsCudnnDescriptor out);

// A convolution without flipped filters, or one of its gradients: which of the three tensors the operation
// computes of the other two. x and y have the sizes [rows, channels, height, width], filters [out, in,
// kernel, kernel], whatever their order in memory.
typedef enum LsCudnnConvolution {
    LS_CUDNN_CONVOLUTION,      // y
    LS_CUDNN_BACKWARD_DATA,    // x
    LS_CUDNN_BACKWARD_WEIGHTS, // filters
} LsCudnnConvolution;

typedef struct LsCudnnFilter {
    LsCudnnConvolution direction;
    int64_t stride, padding;
    LsCudnnDescriptor x, weight, y;
} LsCudnnFilter;
void ls_cudnn_convolve(LsCudnnGraph *graph, const LsCudnnFilter *filter);

#endif
