// What the backends share; no other layer sees this header.
#ifndef LOCKSTEP_DEVICE_BACKEND_H
#define LOCKSTEP_DEVICE_BACKEND_H

#include "device/device.h"

// Each backend's constructor. options->kind and options->precision are never auto.
LsStatus ls_ref_open(const LsDeviceOptions *options, LsDevice **out);
LsStatus ls_cpu_open(const LsDeviceOptions *options, LsDevice **out);
LsStatus ls_cuda_open(
    const LsDeviceOptions *options, LsDevice **out); // LS_UNAVAILABLE in builds without CUDA

// The reference table, from which other host backends start. Its functions need nothing of `device` but its
// table; memory, streams, markers and choices are those of any backend that does everything at once.
extern const LsDeviceOps ls_ref_ops;

// LS_OK for F32, BF16 and F16, else LS_UNSUPPORTED naming the op.
LsStatus ls_require_float_type(const char *op, LsDtype type);

// Checks the types and the combination of options of a product.
LsStatus ls_require_matmul(const LsMatmul *args);

// What may follow a product that was stored: multiplies c by the derivative of `backward` and sums a's
// columns, with the device's own ops, whose bits it has.
LsStatus ls_matmul_finish(LsDevice *device, const LsMatmul *args);

// LS_UNSUPPORTED for types that normalize has no loop for.
LsStatus ls_require_normalize(const LsNormalize *args);

// Of each piece: the type of the rounded weights, whole blocks, and the moments that the optimizer needs.
LsStatus ls_require_optimizer_step(const LsOptimizerStep *args);

// LS_BAD_DATA if a text is not lines of a shape and an algorithm.
LsStatus ls_require_choices(const char *choices);

// LS_BAD_DATA naming the row if a label is not a class. Reads the labels: for backends on the host.
LsStatus ls_require_labels(const LsLossArgs *args);

// Checks that a list of additions stays within its inputs.
LsStatus ls_require_tree(const LsTreeAdd *args);

// Rows must be whole windows, and there is something in each.
LsStatus ls_require_windows(const char *op, size_t rows, size_t window);

// LS_UNSUPPORTED for a type without kernels, LS_INTERNAL for windows or heads of nothing.
LsStatus ls_require_attention(const char *op, size_t window, size_t heads, size_t size, LsDtype type);

// Of the operations of images: LS_UNSUPPORTED for what has no kernel, LS_INTERNAL for windows that do not fit
// and images of nothing.
LsStatus ls_require_convolution(const char *op, const LsConvolutionShape *shape, LsDtype type);
LsStatus ls_require_batch_norm(
    const char *op, size_t places, size_t channels, LsActivation activation, LsDtype type);
LsStatus ls_require_max_pool(const char *op, const LsImageWindow *window, LsDtype type);
LsStatus ls_require_average_pool(const char *op, size_t places, LsDtype type);

// LS_BAD_DATA naming the token if one is not in the vocabulary. For backends on the host, like
// ls_require_labels.
LsStatus ls_require_tokens(const int32_t *tokens, size_t rows, size_t vocabulary);

// The same dropout with each sample as one long row.
LsStatus ls_dropout_by_sample(const LsDropout *args, LsDropout *out);

// Rows sorted by token, those of a token in ascending order; in args->scratch. The tokens have been checked.
typedef struct LsTokenOrder {
    const uint32_t
        *ends; // [vocabulary] where the rows of a token end in `order`; those of the next begin there
    const uint32_t *order; // [rows]
} LsTokenOrder;
LsTokenOrder ls_order_by_token(const LsEmbeddingGradient *args);

// How GPUs cut sums over rows: rows sorted by token that are summed by themselves, and the most slices of
// rows of a layer normalisation, about as many as a large GPU works on at a time. Scratch memory is for both.
enum { LS_EMBEDDING_CHUNK = 32, LS_LAYER_NORM_SLICES = 256, LS_BATCH_NORM_SLICES = 256 };

// The most device memory that a GPU's library (cuDNN) may use for an op of attention.
enum { LS_ATTENTION_WORKSPACE = 256 << 20 };

// The same for a convolution.
enum { LS_CONVOLUTION_WORKSPACE = 256 << 20 };

// What of attention the library is asked to do: 16-bit types, and heads whose rows are whole groups of 16
// bytes. Its backward pass is wrong for windows of one token, by its release notes.
bool ls_attention_asks_library(size_t window, size_t size, LsDtype type);

// Of how many windows at once the library computes the backward pass: the most that divide into all of them
// and fit into the workspace, since it keeps the gradients of scores, heads × T × T × 2 bytes of each window.
// 0 where not even one does: then our own kernels work, which keep nothing of that size.
size_t ls_attention_windows_at_once(size_t windows, size_t window, size_t heads);

// What layer normalisation adds to the variance.
#define LS_LAYER_NORM_EPSILON 1e-5f

// The threshold that dropout compares random words with, and the factor of what is kept.
uint32_t ls_dropout_threshold(double rate);
float ls_dropout_factor(double rate);

#endif
