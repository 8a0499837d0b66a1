// A device: the ops table of one backend and its state. Models and the trainer speak to this header alone.
//
// Backends: `ref` (plain C, every op and type, the truth that others are compared to), `cpu` (the ref table
// with oneDNN products and vectorised loops put over it), `cuda` (cuBLASLt products and our own kernels).
//
// All work is issued from one thread and enqueued on the selected stream; on the CPU it has happened when the
// call returns. On a GPU it happens later, in order within a stream; streams order themselves by markers, and
// the host waits for a marker or for all with synchronize. Pointers in arguments are device memory unless
// their comment says host; argument structs and host arrays in them are read before the call returns.
//
// An op returns LS_OK, or LS_UNSUPPORTED for a type or shape that the backend has no kernel for; it never
// falls back to the host silently. Every op gives the same bits for the same arguments on the same machine
// (runtime.threads included).
#ifndef LOCKSTEP_DEVICE_DEVICE_H
#define LOCKSTEP_DEVICE_DEVICE_H

#include <stdbool.h>

#include "base/config.h"
#include "base/rng.h"
#include "base/status.h"
#include "device/image_operations.h"
#include "device/operations.h"

// ---- The table ------------------------------------------------------------------------------------------

typedef struct LsDevice LsDevice;

// Queues of a device. New devices have the compute stream selected, and whoever selects another one puts it
// back before returning.
typedef enum LsStream {
    LS_STREAM_COMPUTE,
    LS_STREAM_COPY,          // batches to the device and results from it
    LS_STREAM_STATE,         // copies of the state to the host, behind which no batch waits
    LS_STREAM_COMMUNICATION, // exchanges of gradients and parameters and the additions between them
    LS_STREAMS
} LsStream;

// A place in a stream that others can wait for; recorded any number of times, the newest place counts.
typedef struct LsMarker LsMarker;

// A recorded sequence of ops, replayed as one.
typedef struct LsGraph LsGraph;

typedef struct LsDeviceOps {
    const char *name;
    void (*close)(LsDevice *device);
    void (*fingerprint)(const LsDevice *device, char *text, size_t size); // see ls_device_fingerprint
    void (*identity)(const LsDevice *device, char *text, size_t size);    // see ls_device_identity

    // Memory. New memory has undefined contents. Sizes are bytes.
    LsStatus (*allocate)(LsDevice *device, size_t bytes, void **out);
    void (*release)(LsDevice *device, void *memory);
    // Memory the host may touch and that copies to and from the device fast (pinned on a GPU).
    LsStatus (*allocate_host)(LsDevice *device, size_t bytes, void **out);
    void (*release_host)(LsDevice *device, void *memory);
    // host_from from allocate_host must not change until the copy is done; other host memory is read before
    // the call returns.
    LsStatus (*copy_in)(LsDevice *device, void *to, const void *host_from, size_t bytes);
    LsStatus (*copy_out)(LsDevice *device, void *host_to, const void *from,
        size_t bytes); // the host may read host_to after waiting for a later marker or synchronize
    LsStatus (*copy)(LsDevice *device, void *to, const void *from, size_t bytes);
    LsStatus (*zero)(LsDevice *device, void *to, size_t bytes);
    LsStatus (*synchronize)(LsDevice *device); // the host waits for all streams

    // Streams, markers. A marker never recorded counts as reached.
    void (*select_stream)(LsDevice *device, LsStream stream);
    LsStatus (*marker_create)(LsDevice *device, LsMarker **out);
    void (*marker_destroy)(LsDevice *device, LsMarker *marker);    // NULL is fine
    LsStatus (*marker_record)(LsDevice *device, LsMarker *marker); // in the selected stream
    LsStatus (*marker_wait)(LsDevice *device, LsMarker *marker); // what follows in the selected stream waits
    LsStatus (*marker_reached)(LsDevice *device, LsMarker *marker, bool *reached); // does not wait
    LsStatus (*marker_synchronize)(LsDevice *device, LsMarker *marker);            // the host waits

    // Graphs; all NULL where there are none. Between begin and end, ops on the compute stream are recorded
    // instead of run: with their pointers, reading contents when replayed. No allocation, no other stream, no
    // waiting of the host, and no op of a shape that was not run before. marker_record and marker_wait are
    // recorded as well: each replay records the marker anew, or waits for its newest record. end: *out is
    // NULL after a failure in between. capture_abandon forgets it all.
    LsStatus (*capture_begin)(LsDevice *device);
    LsStatus (*capture_end)(LsDevice *device, LsGraph **out);
    void (*capture_abandon)(LsDevice *device);
    LsStatus (*graph_launch)(LsDevice *device, LsGraph *graph); // on the compute stream
    void (*graph_destroy)(LsDevice *device, LsGraph *graph);    // NULL is fine

    // Choices among algorithms, one line "shape algorithm" each, "" where there is nothing to choose. While
    // tuning, the first op of a shape without a choice measures the deterministic candidates and keeps the
    // fastest; otherwise it keeps the library's first. *out is freed by the caller. choose: these and no
    // others; what ops before it chose is forgotten. LS_BAD_DATA for a text that is none, lines of other
    // library versions are passed over.
    void (*tune)(LsDevice *device, bool on);
    LsStatus (*choices)(const LsDevice *device, char **out);
    LsStatus (*choose)(LsDevice *device, const char *choices);

    void *(*native_stream)(LsDevice *device, LsStream stream); // cudaStream_t, for NCCL; NULL on hosts

    double (*peak)(const LsDevice *device); // FLOP/s of products by the data sheet, 0: not known; NULL where
                                            // it never is

    LsStatus (*cast)(LsDevice *device, const LsCast *args);
    LsStatus (*normalize)(LsDevice *device, const LsNormalize *args);
    LsStatus (*matmul)(LsDevice *device, const LsMatmul *args);
    LsStatus (*bias_gradient)(LsDevice *device, const LsBiasGradient *args);
    LsStatus (*activation_backward)(LsDevice *device, const LsActivationBackward *args);
    LsStatus (*dropout)(LsDevice *device, const LsDropout *args);
    LsStatus (*add)(LsDevice *device, const LsAdd *args);
    LsStatus (*cross_entropy)(LsDevice *device, const LsLossArgs *args);
    LsStatus (*binary_cross_entropy)(
        LsDevice *device, const LsLossArgs *args); // row loss: mean over columns, on logits
    LsStatus (*mean_squared_error)(LsDevice *device, const LsLossArgs *args); // row loss: mean over columns
    LsStatus (*sum)(LsDevice *device, const LsSum *args);
    LsStatus (*block_squares)(LsDevice *device, const LsBlockSquares *args);
    LsStatus (*tree_add)(LsDevice *device, const LsTreeAdd *args);
    LsStatus (*fingerprint_bits)(LsDevice *device, const LsFingerprint *args);
    LsStatus (*decide_step)(LsDevice *device, const LsDecideStep *args);
    LsStatus (*trust_ratios)(LsDevice *device, const LsTrustRatios *args);
    LsStatus (*optimizer_step)(LsDevice *device, const LsOptimizerStep *args);

    LsStatus (*embedding)(LsDevice *device, const LsEmbedding *args);
    LsStatus (*embedding_gradient)(LsDevice *device, const LsEmbeddingGradient *args);
    LsStatus (*layer_norm)(LsDevice *device, const LsLayerNorm *args);
    LsStatus (*layer_norm_backward)(LsDevice *device, const LsLayerNormBackward *args);
    LsStatus (*attention)(LsDevice *device, const LsAttention *args);
    LsStatus (*attention_backward)(LsDevice *device, const LsAttentionBackward *args);

    // Images: all NULL in a backend without them.
    LsStatus (*convolution)(LsDevice *device, const LsConvolution *args);
    LsStatus (*convolution_backward_data)(LsDevice *device, const LsConvolutionBackwardData *args);
    LsStatus (*convolution_backward_weights)(LsDevice *device, const LsConvolutionBackwardWeights *args);
    LsStatus (*batch_norm)(LsDevice *device, const LsBatchNorm *args);
    LsStatus (*batch_norm_backward)(LsDevice *device, const LsBatchNormBackward *args);
    LsStatus (*max_pool)(LsDevice *device, const LsMaxPool *args);
    LsStatus (*max_pool_backward)(LsDevice *device, const LsMaxPoolBackward *args);
    LsStatus (*average_pool)(LsDevice *device, const LsAveragePool *args);
    LsStatus (*average_pool_backward)(LsDevice *device, const LsAveragePoolBackward *args);
} LsDeviceOps;

// Backends extend this struct: the first member of theirs is an LsDevice.
struct LsDevice {
    const LsDeviceOps *ops;
    LsPrecision precision; // never auto
    bool discrete;         // the host cannot touch its memory, and ops happen after their call returned
    bool plain;            // its ops work on any host memory, shared mappings among it
    bool concurrent;       // tree_add may be called by several threads at once, beside any other op
    size_t expected_bytes; // what the run is going to allocate, for the line that says it did not fit; 0:
                           // unknown
};

typedef struct LsDeviceOptions {
    int kind;       // LsDeviceKind
    int precision;  // LsPrecision; auto: bf16 where products in it are faster than in fp32
    int threads;    // of the process's oneDNN, at least 1
    int isa;        // LsIsa: the highest instruction set to use
    int local_rank; // number of this process among those of its host: it takes GPU local_rank modulo their
                    // number (CUDA_VISIBLE_DEVICES, as Slurm and Kubernetes set it, decides which are seen)
    bool tf32;      // FP32 products may round their inputs to TF32 (10 bits)
    size_t expected_bytes; // see LsDevice
} LsDeviceOptions;

// Opens a device; ls_device_close(NULL) is fine. auto: cuda where this build has it and the machine a GPU,
// else cpu. LS_UNAVAILABLE when this build or machine lacks the device, or the instruction set asked for.
LsStatus ls_device_open(const LsDeviceOptions *options, LsDevice **out);

// The device that a configuration's runtime section names, for this process's place on its host.
// expected_bytes: see LsDevice.
LsStatus ls_device_open_configured(
    const LsConfig *config, int local_rank, size_t expected_bytes, LsDevice **out);
void ls_device_close(LsDevice *device);

// Memory as `allocate` gives it, filled with zeros when this returns.
LsStatus ls_device_allocate_zeroed(LsDevice *device, size_t bytes, void **out);

// The type in which activations and working weights are stored: F32 for fp32, BF16 for bf16, F16 for fp16.
LsDtype ls_device_compute_type(const LsDevice *device);
LsDtype ls_precision_type(LsPrecision precision); // auto counts as bf16

// Which processor this is, so that two ranks can find that they share it: a GPU's UUID; "" for the CPU.
void ls_device_identity(const LsDevice *device, char *text, size_t size);

// What the bits of this device depend on, one line: backend, library version, instruction set, caches,
// threads, compiler.
void ls_device_fingerprint(const LsDevice *device, char *text, size_t size);

// The machine's GPUs in one line for people, or why none can be used. *usable (may be NULL): how many.
void ls_device_gpus(char *text, size_t size, int *usable);

// Versions of the GPU libraries that this build uses, one line; "" in a build without CUDA.
void ls_device_gpu_libraries(char *text, size_t size);

// Names what this thread does in the timeline of a GPU's profiler (NVTX), until the end; ranges nest. Nothing
// happens in a build without CUDA.
void ls_device_range_begin(const char *name);
void ls_device_range_end(void);

// Peak of one rank's matrix products in the device's precision, FLOP/s: what MFU is a part of. By the data
// sheet of GPUs that cuda/peaks.c has, measured on others and on processors. *sheet (may be NULL): which.
LsStatus ls_device_peak(LsDevice *device, double *flops, bool *sheet);

// The same, measured wherever it is (a 1,024³ product or a smaller one where that takes long, best of a few;
// about 50 ms).
LsStatus ls_device_measure_peak(LsDevice *device, double *flops);

#endif
