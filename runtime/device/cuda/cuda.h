// The cuda backend's state and what its files share. Private to them.
#ifndef LOCKSTEP_DEVICE_CUDA_CUDA_H
#define LOCKSTEP_DEVICE_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "../backend.h"

typedef struct LsProducts LsProducts;                 // plans of matrix products, see products.h
typedef struct LsAttentionPlans LsAttentionPlans;     // of attention, see attention_plans.h
typedef struct LsConvolutionPlans LsConvolutionPlans; // of convolutions, see convolution_plans.h

// Host memory from allocate_host, in a list.
typedef struct LsPinned {
    struct LsPinned *next;
    char *memory;
    size_t bytes;
} LsPinned;

// Device memory for intermediate results; see ls_cuda_scratch.
typedef struct LsScratch {
    struct LsScratch *next;
    void *memory;
    size_t bytes;
} LsScratch;

typedef struct LsCudaDevice {
    LsDevice base;
    int index; // among the GPUs that this process sees
    struct cudaDeviceProp properties;
    cudaStream_t streams[LS_STREAMS];
    LsStream selected;
    bool capturing;
    bool capture_failed; // an op failed since capture_begin: what was recorded is not whole
    LsPinned *pinned;
    LsScratch *scratch; // newest, and largest, first
    LsProducts *products;
    LsAttentionPlans *attention;
    LsConvolutionPlans *convolutions;
    struct LsCudnn *library; // NULL until it is needed; see library.h
    bool tf32;
} LsCudaDevice;

static inline LsCudaDevice *ls_cuda(const LsDevice *device)
{
    return (LsCudaDevice *)device;
}

static inline cudaStream_t ls_cuda_stream(const LsCudaDevice *cuda)
{
    return cuda->streams[cuda->selected];
}

// ---- errors.c -------------------------------------------------------------------------------------------

// The converter of the runtime's errors: LS_OK, or a line that names the GPU, what failed and why.
LsStatus ls_cuda_check(LsCudaDevice *cuda, cudaError_t error, const char *what);

// The same before a device is open.
LsStatus ls_cuda_check_gpu(int gpu, cudaError_t error, const char *what);

// ---- gpus.c ---------------------------------------------------------------------------------------------

// Chooses the GPU of this process and reads its properties. LS_UNAVAILABLE, in one sentence, without a
// driver, a GPU, or a GPU that is new enough.
LsStatus ls_cuda_choose(int local_rank, int *index, struct cudaDeviceProp *properties);
void ls_cuda_identity(const LsDevice *device, char *text, size_t size);
void ls_cuda_fingerprint(const LsDevice *device, char *text, size_t size);

// ---- peaks.c --------------------------------------------------------------------------------------------

// FLOP/s of products by the data sheet of the GPU of that name; 0 for one that is not in the table. tf32:
// FP32 products round their inputs to it.
double ls_cuda_peak_of(const char *name, LsPrecision precision, bool tf32);
double ls_cuda_peak(const LsDevice *device);

// ---- memory.c -------------------------------------------------------------------------------------------

LsStatus ls_cuda_allocate(LsDevice *device, size_t bytes, void **out);
void ls_cuda_release(LsDevice *device, void *memory);
LsStatus ls_cuda_allocate_host(LsDevice *device, size_t bytes, void **out);
void ls_cuda_release_host(LsDevice *device, void *memory);
LsStatus ls_cuda_copy_in(LsDevice *device, void *to, const void *host_from, size_t bytes);
LsStatus ls_cuda_copy_out(LsDevice *device, void *host_to, const void *from, size_t bytes);
LsStatus ls_cuda_copy(LsDevice *device, void *to, const void *from, size_t bytes);
LsStatus ls_cuda_zero(LsDevice *device, void *to, size_t bytes);

// Memory for intermediate results of one op on the compute stream, valid until the next op's. It is taken
// when a shape first needs more than there is, and never given back before close, since recorded graphs
// name it.
LsStatus ls_cuda_scratch(LsCudaDevice *cuda, size_t bytes, void **out);
void ls_cuda_release_all(LsCudaDevice *cuda);

// ---- streams.c ------------------------------------------------------------------------------------------

LsStatus ls_cuda_open_streams(LsCudaDevice *cuda);
void ls_cuda_close_streams(LsCudaDevice *cuda);
LsStatus ls_cuda_synchronize(LsDevice *device);
void ls_cuda_select_stream(LsDevice *device, LsStream stream);
void *ls_cuda_native_stream(LsDevice *device, LsStream stream);
LsStatus ls_cuda_marker_create(LsDevice *device, LsMarker **out);
void ls_cuda_marker_destroy(LsDevice *device, LsMarker *marker);
LsStatus ls_cuda_marker_record(LsDevice *device, LsMarker *marker);
LsStatus ls_cuda_marker_wait(LsDevice *device, LsMarker *marker);
LsStatus ls_cuda_marker_reached(LsDevice *device, LsMarker *marker, bool *reached);
LsStatus ls_cuda_marker_synchronize(LsDevice *device, LsMarker *marker);
LsStatus ls_cuda_capture_begin(LsDevice *device);
LsStatus ls_cuda_capture_end(LsDevice *device, LsGraph **out);
void ls_cuda_capture_abandon(LsDevice *device);
LsStatus ls_cuda_graph_launch(LsDevice *device, LsGraph *graph);
void ls_cuda_graph_destroy(LsDevice *device, LsGraph *graph);

// LS_INTERNAL for what may not be recorded in a graph, while one is being recorded.
LsStatus ls_cuda_require_no_capture(LsCudaDevice *cuda, const char *what);

// LS_INTERNAL on other streams: scratch memory is shared by the ops of the compute stream alone.
LsStatus ls_cuda_require_compute(LsCudaDevice *cuda, const char *what);

// ---- matmul.c -------------------------------------------------------------------------------------------

LsStatus ls_cuda_matmul(LsDevice *device, const LsMatmul *args);
LsStatus ls_cuda_bias_gradient(LsDevice *device, const LsBiasGradient *args);

// ---- attention.c ----------------------------------------------------------------------------------------

// By cuDNN where it takes the shape, else by our own kernels; which of them depends on the shape, the GPU and
// the library's version alone.
LsStatus ls_cuda_attention(LsDevice *device, const LsAttention *args);
LsStatus ls_cuda_attention_backward(LsDevice *device, const LsAttentionBackward *args);

// ---- convolution.c --------------------------------------------------------------------------------------

// By cuDNN where it takes the shape, else by our own kernels, as attention.
LsStatus ls_cuda_convolution(LsDevice *device, const LsConvolution *args);
LsStatus ls_cuda_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args);
LsStatus ls_cuda_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args);

#endif
