// The cuda backend: its table, opening and closing. Products are in matmul.c, all other ops are kernels of
// our own.
#include "cuda.h"

#include <stdlib.h>

#include "attention_plans.h"
#include "base/memory.h"
#include "convolution_plans.h"
#include "cudnn_library.h"
#include "kernels.h"
#include "products.h"

// An op that refuses its arguments leaves a hole in what is being recorded.
static LsStatus checked(LsDevice *device, LsStatus status)
{
    if (status != LS_OK)
        ls_cuda(device)->capture_failed = true;
    return status;
}

static LsStatus launched(LsDevice *device, cudaError_t error, const char *op)
{
    return ls_cuda_check(ls_cuda(device), error, op);
}

static LsStatus cuda_cast(LsDevice *device, const LsCast *args)
{
    LS_TRY(checked(device, ls_require_float_type("cast", args->from_type)));
    LS_TRY(checked(device, ls_require_float_type("cast", args->to_type)));
    return launched(device, ls_kernel_cast(ls_cuda_stream(ls_cuda(device)), args), "cast");
}

static LsStatus cuda_normalize(LsDevice *device, const LsNormalize *args)
{
    LS_TRY(checked(device, ls_require_normalize(args)));
    return launched(device, ls_kernel_normalize(ls_cuda_stream(ls_cuda(device)), args), "normalize");
}

static LsStatus cuda_matmul(LsDevice *device, const LsMatmul *args)
{
    return checked(device, ls_cuda_matmul(device, args));
}

static LsStatus cuda_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    return checked(device, ls_cuda_bias_gradient(device, args));
}

static LsStatus cuda_activation_backward(LsDevice *device, const LsActivationBackward *args)
{
    LS_TRY(checked(device, ls_require_float_type("activation_backward", args->type)));
    return launched(
        device, ls_kernel_activation_backward(ls_cuda_stream(ls_cuda(device)), args), "activation_backward");
}

static LsStatus cuda_dropout(LsDevice *device, const LsDropout *args)
{
    LsDropout sampled;
    LS_TRY(checked(device, ls_require_float_type("dropout", args->type)));
    LS_TRY(checked(device, ls_dropout_by_sample(args, &sampled)));
    return launched(device, ls_kernel_dropout(ls_cuda_stream(ls_cuda(device)), &sampled), "dropout");
}

static LsStatus cuda_add(LsDevice *device, const LsAdd *args)
{
    LS_TRY(checked(device, ls_require_float_type("add", args->type)));
    return launched(device, ls_kernel_add(ls_cuda_stream(ls_cuda(device)), args), "add");
}

static LsStatus cuda_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    LS_TRY(checked(device, ls_require_float_type("cross_entropy", args->type)));
    return launched(device, ls_kernel_cross_entropy(ls_cuda_stream(ls_cuda(device)), args), "cross_entropy");
}

static LsStatus cuda_binary_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    LS_TRY(checked(device, ls_require_float_type("binary_cross_entropy", args->type)));
    return launched(device, ls_kernel_binary_cross_entropy(ls_cuda_stream(ls_cuda(device)), args),
        "binary_cross_entropy");
}

static LsStatus cuda_mean_squared_error(LsDevice *device, const LsLossArgs *args)
{
    LS_TRY(checked(device, ls_require_float_type("mean_squared_error", args->type)));
    return launched(
        device, ls_kernel_mean_squared_error(ls_cuda_stream(ls_cuda(device)), args), "mean_squared_error");
}

static LsStatus cuda_sum(LsDevice *device, const LsSum *args)
{
    return launched(device, ls_kernel_sum(ls_cuda_stream(ls_cuda(device)), args), "sum");
}

static LsStatus cuda_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    return launched(device, ls_kernel_block_squares(ls_cuda_stream(ls_cuda(device)), args), "block_squares");
}

static LsStatus cuda_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    LS_TRY(checked(device, ls_require_tree(args)));
    return launched(device, ls_kernel_tree_add(ls_cuda_stream(ls_cuda(device)), args), "tree_add");
}

static LsStatus cuda_fingerprint_bits(LsDevice *device, const LsFingerprint *args)
{
    return launched(
        device, ls_kernel_fingerprint_bits(ls_cuda_stream(ls_cuda(device)), args), "fingerprint_bits");
}

static LsStatus cuda_decide_step(LsDevice *device, const LsDecideStep *args)
{
    return launched(device, ls_kernel_decide_step(ls_cuda_stream(ls_cuda(device)), args), "decide_step");
}

static LsStatus cuda_trust_ratios(LsDevice *device, const LsTrustRatios *args)
{
    return launched(device, ls_kernel_trust_ratios(ls_cuda_stream(ls_cuda(device)), args), "trust_ratios");
}

static LsStatus cuda_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    LS_TRY(checked(device, ls_require_optimizer_step(args)));
    return launched(
        device, ls_kernel_optimizer_step(ls_cuda_stream(ls_cuda(device)), args), "optimizer_step");
}

// ---- Language models -------------------------------------------------------------------------------------

static LsStatus cuda_embedding(LsDevice *device, const LsEmbedding *args)
{
    LS_TRY(checked(device, ls_require_float_type("embedding", args->type)));
    LS_TRY(checked(device, ls_require_windows("embedding", args->rows, args->window)));
    return launched(device, ls_kernel_embedding(ls_cuda_stream(ls_cuda(device)), args), "embedding");
}

// Positions are columns of a matrix that has a window in each row.
static LsStatus cuda_embedding_gradient(LsDevice *device, const LsEmbeddingGradient *args)
{
    LS_TRY(checked(device, ls_require_float_type("embedding_gradient", args->type)));
    LS_TRY(checked(device, ls_require_windows("embedding_gradient", args->rows, args->window)));
    LS_TRY(cuda_bias_gradient(device, &(LsBiasGradient){.rows = args->rows / args->window,
                                          .columns = args->window * args->columns,
                                          .dy = args->dy,
                                          .type = args->type,
                                          .db = args->dpositions,
                                          .accumulate = args->accumulate}));
    return launched(
        device, ls_kernel_table_gradient(ls_cuda_stream(ls_cuda(device)), args), "embedding_gradient");
}

static LsStatus cuda_layer_norm(LsDevice *device, const LsLayerNorm *args)
{
    LS_TRY(checked(device, ls_require_float_type("layer_norm", args->type)));
    return launched(device, ls_kernel_layer_norm(ls_cuda_stream(ls_cuda(device)), args), "layer_norm");
}

static LsStatus cuda_layer_norm_backward(LsDevice *device, const LsLayerNormBackward *args)
{
    LS_TRY(checked(device, ls_require_float_type("layer_norm_backward", args->type)));
    return launched(
        device, ls_kernel_layer_norm_backward(ls_cuda_stream(ls_cuda(device)), args), "layer_norm_backward");
}

static LsStatus cuda_attention(LsDevice *device, const LsAttention *args)
{
    return checked(device, ls_cuda_attention(device, args));
}

static LsStatus cuda_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    return checked(device, ls_cuda_attention_backward(device, args));
}

// ---- Images ---------------------------------------------------------------------------------------------

static LsStatus cuda_convolution(LsDevice *device, const LsConvolution *args)
{
    return checked(device, ls_cuda_convolution(device, args));
}

static LsStatus cuda_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    return checked(device, ls_cuda_convolution_backward_data(device, args));
}

static LsStatus cuda_convolution_backward_weights(LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    return checked(device, ls_cuda_convolution_backward_weights(device, args));
}

static LsStatus cuda_batch_norm(LsDevice *device, const LsBatchNorm *args)
{
    LS_TRY(checked(device,
        ls_require_batch_norm("batch_norm", args->places, args->channels, args->activation, args->type)));
    return launched(device, ls_kernel_batch_norm(ls_cuda_stream(ls_cuda(device)), args), "batch_norm");
}

static LsStatus cuda_batch_norm_backward(LsDevice *device, const LsBatchNormBackward *args)
{
    LS_TRY(checked(device, ls_require_batch_norm("batch_norm_backward", args->places, args->channels,
                               args->activation, args->type)));
    return launched(
        device, ls_kernel_batch_norm_backward(ls_cuda_stream(ls_cuda(device)), args), "batch_norm_backward");
}

static LsStatus cuda_max_pool(LsDevice *device, const LsMaxPool *args)
{
    LS_TRY(checked(device, ls_require_max_pool("max_pool", &args->window, args->type)));
    return launched(device, ls_kernel_max_pool(ls_cuda_stream(ls_cuda(device)), args), "max_pool");
}

static LsStatus cuda_max_pool_backward(LsDevice *device, const LsMaxPoolBackward *args)
{
    LS_TRY(checked(device, ls_require_max_pool("max_pool_backward", &args->window, args->type)));
    return launched(
        device, ls_kernel_max_pool_backward(ls_cuda_stream(ls_cuda(device)), args), "max_pool_backward");
}

static LsStatus cuda_average_pool(LsDevice *device, const LsAveragePool *args)
{
    LS_TRY(checked(device, ls_require_average_pool("average_pool", args->places, args->type)));
    return launched(device, ls_kernel_average_pool(ls_cuda_stream(ls_cuda(device)), args), "average_pool");
}

static LsStatus cuda_average_pool_backward(LsDevice *device, const LsAveragePoolBackward *args)
{
    LS_TRY(checked(device, ls_require_average_pool("average_pool_backward", args->places, args->type)));
    return launched(device, ls_kernel_average_pool_backward(ls_cuda_stream(ls_cuda(device)), args),
        "average_pool_backward");
}

static void cuda_tune(LsDevice *device, bool on)
{
    ls_cuda(device)->products->tuning = on;
}

static LsStatus cuda_choices(const LsDevice *device, char **out)
{
    return ls_products_choices(ls_cuda(device)->products, out);
}

static LsStatus cuda_choose(LsDevice *device, const char *choices)
{
    return ls_products_choose(ls_cuda(device)->products, choices);
}

static void cuda_close(LsDevice *device)
{
    LsCudaDevice *cuda = ls_cuda(device);
    ls_cuda_capture_abandon(device);
    // What is still on its way ends before its memory goes; that it failed has been reported to whoever
    // waited for it.
    if (cuda->streams[0])
        ls_cuda_synchronize(device);
    ls_attention_plans_close(cuda->attention);
    ls_convolution_plans_close(cuda->convolutions);
    ls_cudnn_close(cuda->library);
    ls_products_close(cuda->products);
    ls_cuda_release_all(cuda);
    ls_cuda_close_streams(cuda);
    free(cuda);
}

static const LsDeviceOps cuda_ops = {
    .name = "cuda",
    .close = cuda_close,
    .fingerprint = ls_cuda_fingerprint,
    .identity = ls_cuda_identity,
    .allocate = ls_cuda_allocate,
    .release = ls_cuda_release,
    .allocate_host = ls_cuda_allocate_host,
    .release_host = ls_cuda_release_host,
    .copy_in = ls_cuda_copy_in,
    .copy_out = ls_cuda_copy_out,
    .copy = ls_cuda_copy,
    .zero = ls_cuda_zero,
    .synchronize = ls_cuda_synchronize,
    .select_stream = ls_cuda_select_stream,
    .marker_create = ls_cuda_marker_create,
    .marker_destroy = ls_cuda_marker_destroy,
    .marker_record = ls_cuda_marker_record,
    .marker_wait = ls_cuda_marker_wait,
    .marker_reached = ls_cuda_marker_reached,
    .marker_synchronize = ls_cuda_marker_synchronize,
    .capture_begin = ls_cuda_capture_begin,
    .capture_end = ls_cuda_capture_end,
    .capture_abandon = ls_cuda_capture_abandon,
    .graph_launch = ls_cuda_graph_launch,
    .graph_destroy = ls_cuda_graph_destroy,
    .tune = cuda_tune,
    .choices = cuda_choices,
    .choose = cuda_choose,
    .native_stream = ls_cuda_native_stream,
    .peak = ls_cuda_peak,
    .cast = cuda_cast,
    .normalize = cuda_normalize,
    .matmul = cuda_matmul,
    .bias_gradient = cuda_bias_gradient,
    .activation_backward = cuda_activation_backward,
    .dropout = cuda_dropout,
    .add = cuda_add,
    .cross_entropy = cuda_cross_entropy,
    .binary_cross_entropy = cuda_binary_cross_entropy,
    .mean_squared_error = cuda_mean_squared_error,
    .sum = cuda_sum,
    .block_squares = cuda_block_squares,
    .tree_add = cuda_tree_add,
    .fingerprint_bits = cuda_fingerprint_bits,
    .decide_step = cuda_decide_step,
    .trust_ratios = cuda_trust_ratios,
    .optimizer_step = cuda_optimizer_step,
    .embedding = cuda_embedding,
    .embedding_gradient = cuda_embedding_gradient,
    .layer_norm = cuda_layer_norm,
    .layer_norm_backward = cuda_layer_norm_backward,
    .attention = cuda_attention,
    .attention_backward = cuda_attention_backward,
    .convolution = cuda_convolution,
    .convolution_backward_data = cuda_convolution_backward_data,
    .convolution_backward_weights = cuda_convolution_backward_weights,
    .batch_norm = cuda_batch_norm,
    .batch_norm_backward = cuda_batch_norm_backward,
    .max_pool = cuda_max_pool,
    .max_pool_backward = cuda_max_pool_backward,
    .average_pool = cuda_average_pool,
    .average_pool_backward = cuda_average_pool_backward,
};

LsStatus ls_cuda_open(const LsDeviceOptions *options, LsDevice **out)
{
    int index;
    struct cudaDeviceProp properties;
    LS_TRY(ls_cuda_choose(options->local_rank, &index, &properties));
    LsCudaDevice *cuda;
    LS_TRY(ls_memory_allocate(sizeof *cuda, (void **)&cuda));
    cuda->base.ops = &cuda_ops;
    cuda->base.discrete = true;
    cuda->base.expected_bytes = options->expected_bytes;
    // Products in BF16 are faster than in FP32 on every GPU that is new enough to be chosen.
    cuda->base.precision =
        options->precision == LS_PRECISION_AUTO ? LS_PRECISION_BF16 : (LsPrecision)options->precision;
    cuda->index = index;
    cuda->properties = properties;
    cuda->tf32 = options->tf32;
    LsStatus status = ls_cuda_open_streams(cuda);
    if (status == LS_OK)
        status = ls_products_open(cuda, &cuda->products);
    if (status == LS_OK)
        status = ls_attention_plans_open(cuda, &cuda->attention);
    if (status == LS_OK)
        status = ls_convolution_plans_open(cuda, &cuda->convolutions);
    if (status != LS_OK) {
        cuda_close(&cuda->base);
        return status;
    }
    *out = &cuda->base;
    return LS_OK;
}
