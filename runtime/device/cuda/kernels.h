// Launchers of our CUDA kernels: one for each op, beside the files kernels/*.cu that define them. Private to
// the cuda backend; read by C and by CUDA C++.
//
// A launcher enqueues its kernel on `stream` and returns what the launch returned; arguments were checked by
// the caller (types F32, BF16, F16). Launchers allocate nothing, so they may be recorded in graphs. Sums are
// taken in F32 or F64 in an order that the arguments alone fix, and nothing uses float atomics: the same
// arguments give the same bits, wherever buffers lie. Buffers are aligned to their elements. Accesses are of
// 16 bytes, and of as many elements of narrower types, where the buffers, and the rows of those that are cut
// by rows, are aligned to that, and for elementwise ops and tree_add's common trees also where all buffers
// are equally far from it, up to their ends; else of one element.
//
// The comments give the bytes moved; every kernel here but attention and convolutions is bound by memory
// bandwidth, so its least time is that number divided by the bandwidth (H200: 4.8 TB/s by data sheet). s, t:
// bytes of an element of the types. Dropout in 16 bits needs about 22 instructions an element, most of them
// Philox, and is near the bound of instructions as well.
#ifndef LOCKSTEP_DEVICE_CUDA_KERNELS_H
#define LOCKSTEP_DEVICE_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#include "device/image_operations.h"
#include "device/operations.h"

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t ls_kernel_cast(cudaStream_t stream, const LsCast *args);                              // n (s + t)
cudaError_t ls_kernel_normalize(cudaStream_t stream, const LsNormalize *args);                    // n (s + t)
cudaError_t ls_kernel_activation_backward(cudaStream_t stream, const LsActivationBackward *args); // 3 n s
cudaError_t ls_kernel_dropout(cudaStream_t stream, const LsDropout *args);                        // 2 n s
cudaError_t ls_kernel_add(cudaStream_t stream, const LsAdd *args);                                // 3 n s

// What follows a product whose epilogue the library does not have: v = x + bias, pre = v, y = activation(v).
// 2 n s, 3 n s with pre. y may be x. pre and bias may be NULL.
typedef struct LsBiasActivation {
    size_t rows, columns;
    const void *x; // [rows][columns]
    const void *bias;
    LsDtype bias_type;
    LsActivation activation;
    void *pre, *y;
    LsDtype type; // of x, pre and y
} LsBiasActivation;
cudaError_t ls_kernel_bias_activation(cudaStream_t stream, const LsBiasActivation *args);

// Column sums in two passes over slices of rows: n s + 2 slices columns 4. `scratch` holds
// ls_kernel_bias_gradient_scratch bytes.
size_t ls_kernel_bias_gradient_scratch(const LsBiasGradient *args);
cudaError_t ls_kernel_bias_gradient(cudaStream_t stream, const LsBiasGradient *args, void *scratch);

// Losses read the outputs once and write the gradient once: 2 n s, and 4 n of targets. Cross-entropy holds
// rows of up to 4,096 classes in registers; for longer ones it keeps a running maximum and sum (online
// softmax: Milakov and Gimelshein, 2018) and reads the row a second time for the gradient, mostly from the L2
// cache. Outputs of -infinity are classes that cannot be, whose gradient is 0 without smoothing.
cudaError_t ls_kernel_cross_entropy(cudaStream_t stream, const LsLossArgs *args);
cudaError_t ls_kernel_binary_cross_entropy(cudaStream_t stream, const LsLossArgs *args);
cudaError_t ls_kernel_mean_squared_error(cudaStream_t stream, const LsLossArgs *args);

cudaError_t ls_kernel_sum(cudaStream_t stream, const LsSum *args); // 4 n; one block of threads
cudaError_t ls_kernel_block_squares(cudaStream_t stream, const LsBlockSquares *args); // 4 n
cudaError_t ls_kernel_fingerprint_bits(cudaStream_t stream, const LsFingerprint *args);
cudaError_t ls_kernel_decide_step(cudaStream_t stream, const LsDecideStep *args);   // small
cudaError_t ls_kernel_trust_ratios(cudaStream_t stream, const LsTrustRatios *args); // small

// 4 n (inputs + 1). cudaErrorInvalidValue for more than 480 additions, which kernel parameters do not hold; a
// tree has fewer than it has inputs.
cudaError_t ls_kernel_tree_add(cudaStream_t stream, const LsTreeAdd *args);

// One launch for as many pieces as its parameters hold. AdamW: n (4 + 3 · 8 + t), SGD with momentum: n (4 + 2
// · 8 + t).
cudaError_t ls_kernel_optimizer_step(cudaStream_t stream, const LsOptimizerStep *args);

// Forward: 2 n s, with a branch 4 n s, and the row's statistics. Rows of up to 1,024 groups of 16 bytes stay
// in registers; longer ones are read three times, mostly from the L2 cache. Backward: 3 n s, with a residual
// 4 n s, and 2 · 8 columns for each of at most LS_LAYER_NORM_SLICES slices of rows; x and dy of rows of more
// than 768 groups are read twice.
cudaError_t ls_kernel_layer_norm(cudaStream_t stream, const LsLayerNorm *args);
cudaError_t ls_kernel_layer_norm_backward(cudaStream_t stream, const LsLayerNormBackward *args);

// n s written, and of the two tables what is asked for, read: up to 2 n s.
cudaError_t ls_kernel_embedding(cudaStream_t stream, const LsEmbedding *args);

// The part of the embedding's gradient that is dtable: n s, 8 columns for each token that comes, 2 · 8
// columns for each chunk of LS_EMBEDDING_CHUNK rows that ends within a token's, and 24 bytes a row for each
// digit of its token. dpositions has been written, and gets NaN where a token is none.
cudaError_t ls_kernel_table_gradient(cudaStream_t stream, const LsEmbeddingGradient *args);

// Causal attention of C = heads · size channels, n = windows · window · C. Bound by products, not by memory:
// 2 of window² / 2 pairs forward, which is 2 windows window² C FLOPs, and 7 backward, two of them taken twice
// so that no block adds to what another wrote: 7 windows window² C. Least bytes: 4 n t and 8 n t. Types of 16
// bits multiply on tensor cores (mma.sync: 312 TFLOP/s on an A100), F32 in fused multiply-adds (H200: 67
// TFLOP/s). A NaN in a row of v or dout reaches the other rows of its tile too, since 0 × NaN is NaN. More
// than 2^31 - 1 blocks of threads are cudaErrorInvalidConfiguration.
cudaError_t ls_kernel_attention(cudaStream_t stream, const LsAttention *args);
cudaError_t ls_kernel_attention_backward(cudaStream_t stream, const LsAttentionBackward *args);

// Convolutions as products of matrices that are gathered on the way, in tiles of 64 × 64: F32 sums of fused
// multiply-adds, for builds without cuDNN and shapes that it has no plan for. 2 · places · kernel² · in · out
// FLOPs each. The gradient of filters is summed over slices of places, which `scratch` holds
// (ls_kernel_convolution_scratch bytes, at most LS_CONVOLUTION_WORKSPACE unless one slice is larger).
cudaError_t ls_kernel_convolution(cudaStream_t stream, const LsConvolution *args);
cudaError_t ls_kernel_convolution_backward_data(cudaStream_t stream, const LsConvolutionBackwardData *args);
size_t ls_kernel_convolution_scratch(const LsConvolutionShape *shape);
cudaError_t ls_kernel_convolution_backward_weights(
    cudaStream_t stream, const LsConvolutionBackwardWeights *args, void *scratch);

// to (+)= from, what a library left in a narrower type, or could not add: n (s + 4), accumulated n (s + 8).
typedef struct LsWiden {
    size_t n;
    const void *from;
    LsDtype type;
    float *to;
    bool accumulate;
} LsWiden;
cudaError_t ls_kernel_widen(cudaStream_t stream, const LsWiden *args);

// Of n = places · channels elements. Forward: x is read for mean and variance (joined as moments, so that
// nothing cancels) and once more for y: 3 n s, with a residual 4 n s, with given mean and variance n s less.
// Backward: x, dy, for ReLU y, and the second gradient are read for the sums, and then x and either what the
// first pass left in dresidual or the same again: 5 n s to 9 n s. Both: 2 · 8 channels for each of at most
// LS_BATCH_NORM_SLICES slices of places.
cudaError_t ls_kernel_batch_norm(cudaStream_t stream, const LsBatchNorm *args);
cudaError_t ls_kernel_batch_norm_backward(cudaStream_t stream, const LsBatchNormBackward *args);

// A value of x is read by each window that it is in, all but the first time mostly from the L2 cache: n s
// read and, of the smaller result, s + 1 bytes for each value written; backward the same the other way.
// Images of more than 2^32 - 1 places are cudaErrorInvalidConfiguration.
cudaError_t ls_kernel_max_pool(cudaStream_t stream, const LsMaxPool *args);
cudaError_t ls_kernel_max_pool_backward(cudaStream_t stream, const LsMaxPoolBackward *args);
cudaError_t ls_kernel_average_pool(cudaStream_t stream, const LsAveragePool *args);                  // n s
cudaError_t ls_kernel_average_pool_backward(cudaStream_t stream, const LsAveragePoolBackward *args); // n s

#ifdef __cplusplus
}
#endif

#endif
