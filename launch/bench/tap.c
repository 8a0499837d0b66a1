#include "tap.h"

#include <stdlib.h>

// The table is the tap's first member.
static Tap *tap_of(const LsDevice *device)
{
    return (Tap *)device->ops;
}

static LsStatus list(Tap *tap, OpWork work)
{
    if (tap->count == tap->capacity) {
        size_t capacity = tap->capacity ? 2 * tap->capacity : 256;
        OpWork *larger = realloc(tap->call, capacity * sizeof *larger);
        if (!larger)
            return LS_FAIL(LS_INTERNAL, "no memory for the list of %zu ops", capacity);
        tap->call = larger;
        tap->capacity = capacity;
    }
    tap->call[tap->count++] = work;
    return LS_OK;
}

static LsStatus mark(Tap *tap)
{
    if (tap->marked == tap->count)
        return LS_FAIL(LS_INTERNAL, "this step has more ops than the one that was listed, %zu", tap->count);
    return tap->mark(tap->watch, ++tap->marked);
}

// Does what the device's own op does, and notes it unless it is part of another one. `work` is worked out
// only where it is listed: behind a mark, it would be part of the next op's time.
#define PASS(device, op, work, ...)                                                                          \
    do {                                                                                                     \
        Tap *tap_ = tap_of(device);                                                                          \
        LsStatus status_ = LS_OK;                                                                            \
        tap_->depth++;                                                                                       \
        if (!tap_->dry)                                                                                      \
            status_ = tap_->plain->op(device, __VA_ARGS__);                                                  \
        tap_->depth--;                                                                                       \
        if (status_ != LS_OK || tap_->depth > 0 || tap_->mode == TAP_OFF)                                    \
            return status_;                                                                                  \
        return tap_->mode == TAP_MARK ? mark(tap_) : list(tap_, work);                                       \
    } while (0)

static LsStatus tap_copy(LsDevice *device, void *to, const void *from, size_t bytes)
{
    PASS(device, copy, work_of_copy("copy", bytes, 2), to, from, bytes);
}

static LsStatus tap_zero(LsDevice *device, void *to, size_t bytes)
{
    PASS(device, zero, work_of_copy("zero", bytes, 1), to, bytes);
}

static LsStatus tap_cast(LsDevice *device, const LsCast *args)
{
    PASS(device, cast, work_of_cast(args), args);
}

static LsStatus tap_normalize(LsDevice *device, const LsNormalize *args)
{
    PASS(device, normalize, work_of_normalize(args), args);
}

static LsStatus tap_matmul(LsDevice *device, const LsMatmul *args)
{
    PASS(device, matmul, work_of_matmul(args), args);
}

static LsStatus tap_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    PASS(device, bias_gradient, work_of_bias_gradient(args), args);
}

static LsStatus tap_activation_backward(LsDevice *device, const LsActivationBackward *args)
{
    PASS(device, activation_backward, work_of_activation_backward(args), args);
}

static LsStatus tap_dropout(LsDevice *device, const LsDropout *args)
{
    PASS(device, dropout, work_of_dropout(args), args);
}

static LsStatus tap_add(LsDevice *device, const LsAdd *args)
{
    PASS(device, add, work_of_add(args), args);
}

static LsStatus tap_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    PASS(device, cross_entropy, work_of_loss("cross_entropy", args), args);
}

static LsStatus tap_binary_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    PASS(device, binary_cross_entropy, work_of_loss("binary_cross_entropy", args), args);
}

static LsStatus tap_mean_squared_error(LsDevice *device, const LsLossArgs *args)
{
    PASS(device, mean_squared_error, work_of_loss("mean_squared_error", args), args);
}

static LsStatus tap_sum(LsDevice *device, const LsSum *args)
{
    PASS(device, sum, work_of_sum(args), args);
}

static LsStatus tap_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    PASS(device, block_squares, work_of_block_squares(args), args);
}

static LsStatus tap_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    PASS(device, tree_add, work_of_tree_add(args), args);
}

static LsStatus tap_decide_step(LsDevice *device, const LsDecideStep *args)
{
    PASS(device, decide_step, work_of_decide_step(args), args);
}

static LsStatus tap_trust_ratios(LsDevice *device, const LsTrustRatios *args)
{
    PASS(device, trust_ratios, work_of_trust_ratios(args), args);
}

static LsStatus tap_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    PASS(device, optimizer_step, work_of_optimizer_step(args), args);
}

static LsStatus tap_embedding(LsDevice *device, const LsEmbedding *args)
{
    PASS(device, embedding, work_of_embedding(args), args);
}

static LsStatus tap_embedding_gradient(LsDevice *device, const LsEmbeddingGradient *args)
{
    PASS(device, embedding_gradient, work_of_embedding_gradient(args), args);
}

static LsStatus tap_layer_norm(LsDevice *device, const LsLayerNorm *args)
{
    PASS(device, layer_norm, work_of_layer_norm(args), args);
}

static LsStatus tap_layer_norm_backward(LsDevice *device, const LsLayerNormBackward *args)
{
    PASS(device, layer_norm_backward, work_of_layer_norm_backward(args), args);
}

static LsStatus tap_attention(LsDevice *device, const LsAttention *args)
{
    PASS(device, attention, work_of_attention(args), args);
}

static LsStatus tap_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    PASS(device, attention_backward, work_of_attention_backward(args), args);
}

static LsStatus tap_convolution(LsDevice *device, const LsConvolution *args)
{
    PASS(device, convolution, work_of_convolution(args), args);
}

static LsStatus tap_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    PASS(device, convolution_backward_data, work_of_convolution_backward_data(args), args);
}

static LsStatus tap_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    PASS(device, convolution_backward_weights, work_of_convolution_backward_weights(args), args);
}

static LsStatus tap_batch_norm(LsDevice *device, const LsBatchNorm *args)
{
    PASS(device, batch_norm, work_of_batch_norm(args), args);
}

static LsStatus tap_batch_norm_backward(LsDevice *device, const LsBatchNormBackward *args)
{
    PASS(device, batch_norm_backward, work_of_batch_norm_backward(args), args);
}

static LsStatus tap_max_pool(LsDevice *device, const LsMaxPool *args)
{
    PASS(device, max_pool, work_of_max_pool(args), args);
}

static LsStatus tap_max_pool_backward(LsDevice *device, const LsMaxPoolBackward *args)
{
    PASS(device, max_pool_backward, work_of_max_pool_backward(args), args);
}

static LsStatus tap_average_pool(LsDevice *device, const LsAveragePool *args)
{
    PASS(device, average_pool, work_of_average_pool(args), args);
}

static LsStatus tap_average_pool_backward(LsDevice *device, const LsAveragePoolBackward *args)
{
    PASS(device, average_pool_backward, work_of_average_pool_backward(args), args);
}

// ---- Memory that is not there, for a dry pass -----------------------------------------------------------

// Addresses that differ from NULL and point to a byte of their own.
static LsStatus dry_allocate(LsDevice *device, size_t bytes, void **out)
{
    (void)device;
    *out = malloc(1);
    return *out ? LS_OK : LS_FAIL(LS_INTERNAL, "no memory for the place of %zu bytes", bytes);
}

static void dry_release(LsDevice *device, void *memory)
{
    (void)device;
    free(memory);
}

static LsStatus dry_copy_in(LsDevice *device, void *to, const void *host_from, size_t bytes)
{
    (void)device, (void)to, (void)host_from, (void)bytes;
    return LS_OK;
}

// ---- The tap --------------------------------------------------------------------------------------------

static void put_ops(LsDeviceOps *ops)
{
    ops->copy = tap_copy;
    ops->zero = tap_zero;
    ops->cast = tap_cast;
    ops->normalize = tap_normalize;
    ops->matmul = tap_matmul;
    ops->bias_gradient = tap_bias_gradient;
    ops->activation_backward = tap_activation_backward;
    ops->dropout = tap_dropout;
    ops->add = tap_add;
    ops->cross_entropy = tap_cross_entropy;
    ops->binary_cross_entropy = tap_binary_cross_entropy;
    ops->mean_squared_error = tap_mean_squared_error;
    ops->sum = tap_sum;
    ops->block_squares = tap_block_squares;
    ops->tree_add = tap_tree_add;
    ops->decide_step = tap_decide_step;
    ops->trust_ratios = tap_trust_ratios;
    ops->optimizer_step = tap_optimizer_step;
    ops->embedding = tap_embedding;
    ops->embedding_gradient = tap_embedding_gradient;
    ops->layer_norm = tap_layer_norm;
    ops->layer_norm_backward = tap_layer_norm_backward;
    ops->attention = tap_attention;
    ops->attention_backward = tap_attention_backward;
    ops->convolution = tap_convolution;
    ops->convolution_backward_data = tap_convolution_backward_data;
    ops->convolution_backward_weights = tap_convolution_backward_weights;
    ops->batch_norm = tap_batch_norm;
    ops->batch_norm_backward = tap_batch_norm_backward;
    ops->max_pool = tap_max_pool;
    ops->max_pool_backward = tap_max_pool_backward;
    ops->average_pool = tap_average_pool;
    ops->average_pool_backward = tap_average_pool_backward;
}

void tap_attach(Tap *tap, LsDevice *device, bool dry)
{
    *tap = (Tap){.ops = *device->ops,
        .plain = device->ops,
        .device = device,
        .dry = dry,
        .concurrent = device->concurrent};
    put_ops(&tap->ops);
    if (dry) {
        tap->ops.allocate = dry_allocate;
        tap->ops.release = dry_release;
        tap->ops.copy_in = dry_copy_in;
    }
    device->ops = &tap->ops;
    device->concurrent = false; // ops are counted by one thread
}

void tap_detach(Tap *tap)
{
    if (tap->device) {
        tap->device->ops = tap->plain;
        tap->device->concurrent = tap->concurrent;
    }
    free(tap->call);
    *tap = (Tap){0};
}

LsStatus tap_pass(Tap *tap, TapMode mode, TapMark mark, void *watch)
{
    tap->mode = mode;
    tap->mark = mark;
    tap->watch = watch;
    tap->marked = 0;
    if (mode == TAP_LIST)
        tap->count = 0;
    return mode == TAP_MARK ? mark(watch, 0) : LS_OK;
}
