#include "op_work.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 4))) static OpWork work(double bytes, double flops, const char *format, ...)
{
    OpWork result = {.bytes = bytes, .flops = flops};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result.name, sizeof result.name, format, arguments);
    va_end(arguments);
    return result;
}

// Bytes of a × b numbers.
static double of(LsDtype type, size_t a, size_t b)
{
    return (double)ls_dtype_size(type) * (double)a * (double)b;
}

// The same when they are there: an optional argument.
static double given(const void *memory, LsDtype type, size_t a, size_t b)
{
    return memory ? of(type, a, b) : 0;
}

// How often the result of a sum is touched.
static int touches(bool accumulate)
{
    return accumulate ? 2 : 1;
}

static const char *mark(bool present, const char *text)
{
    return present ? text : "";
}

// ---- Any model ------------------------------------------------------------------------------------------

OpWork work_of_copy(const char *name, size_t bytes, int each)
{
    return work((double)bytes * each, 0, "%s %zu bytes", name, bytes);
}

OpWork work_of_cast(const LsCast *args)
{
    return work(of(args->from_type, args->n, 1) + of(args->to_type, args->n, 1), 0, "cast %zu %s>%s", args->n,
        ls_dtype_name(args->from_type), ls_dtype_name(args->to_type));
}

OpWork work_of_normalize(const LsNormalize *args)
{
    double bytes = of(args->x_type, args->rows, args->columns) + of(args->y_type, args->rows, args->columns) +
                   2 * of(LS_F32, args->period, 1);
    return work(bytes, 0, "normalize %zux%zu %s>%s", args->rows, args->columns, ls_dtype_name(args->x_type),
        ls_dtype_name(args->y_type));
}

OpWork work_of_matmul(const LsMatmul *args)
{
    static const char *const activations[] = {"", " relu", " gelu"};
    size_t m = args->m, n = args->n, k = args->k;
    double bytes =
        of(args->input_type, m, k) + of(args->input_type, k, n) +
        of(args->output_type, m, n) * touches(args->accumulate) + given(args->bias, args->input_type, n, 1) +
        given(args->pre_activation, args->output_type, m, n) + given(args->saved, args->output_type, m, n) +
        given(args->bias_gradient, LS_F32, m, 1) * touches(args->accumulate);
    return work(bytes, 2.0 * (double)m * (double)n * (double)k, "matmul %zux%zux%zu %c%c %s>%s%s%s%s%s%s%s%s",
        m, n, k, args->transpose_a ? 't' : 'n', args->transpose_b ? 't' : 'n',
        ls_dtype_name(args->input_type), ls_dtype_name(args->output_type), mark(args->bias, " bias"),
        activations[args->activation], mark(args->pre_activation, " keep"),
        mark(args->backward != LS_IDENTITY, " backward"), activations[args->backward],
        mark(args->bias_gradient, " bias gradient"), mark(args->accumulate, " +="));
}

OpWork work_of_bias_gradient(const LsBiasGradient *args)
{
    double bytes =
        of(args->type, args->rows, args->columns) + of(LS_F32, args->columns, 1) * touches(args->accumulate);
    return work(bytes, 0, "bias_gradient %zux%zu %s%s", args->rows, args->columns, ls_dtype_name(args->type),
        mark(args->accumulate, " +="));
}

OpWork work_of_activation_backward(const LsActivationBackward *args)
{
    return work(3 * of(args->type, args->n, 1), 0, "activation_backward %zu %s %s", args->n,
        args->activation == LS_RELU ? "relu" : "gelu", ls_dtype_name(args->type));
}

OpWork work_of_dropout(const LsDropout *args)
{
    size_t sample_rows = args->rows_per_position > 1 ? args->rows_per_position : 1;
    double bytes = 2 * of(args->type, args->rows, args->columns) +
                   (double)sizeof *args->positions * (double)(args->rows / sample_rows);
    return work(bytes, 0, "dropout %zux%zu %s", args->rows, args->columns, ls_dtype_name(args->type));
}

OpWork work_of_add(const LsAdd *args)
{
    return work(3 * of(args->type, args->n, 1), 0, "add %zu %s", args->n, ls_dtype_name(args->type));
}

OpWork work_of_loss(const char *name, const LsLossArgs *args)
{
    double bytes = of(args->type, args->rows, args->columns) +
                   given(args->gradient, args->type, args->rows, args->columns) +
                   given(args->labels, LS_I32, args->rows, 1) +
                   given(args->targets, LS_F32, args->rows, args->columns) + of(LS_F32, args->rows, 1);
    return work(bytes, 0, "%s %zux%zu %s%s", name, args->rows, args->columns, ls_dtype_name(args->type),
        mark(args->gradient, " gradient"));
}

OpWork work_of_sum(const LsSum *args)
{
    return work(of(LS_F32, args->n, 1), 0, "sum %zu", args->n);
}

OpWork work_of_block_squares(const LsBlockSquares *args)
{
    size_t n = 0, blocks = 0;
    for (size_t p = 0; p < args->count; p++) {
        n += args->piece[p].n;
        blocks += (args->piece[p].n + LS_BLOCK - 1) / LS_BLOCK;
    }
    return work(of(LS_F32, n, 1) + of(LS_F32, blocks, 1), 0, "block_squares %zu", n);
}

OpWork work_of_tree_add(const LsTreeAdd *args)
{
    double bytes = of(args->type, args->n, args->count) + of(args->output_type, args->n, 1);
    return work(bytes, 0, "tree_add %zux%zu%s", args->count, args->n, mark(args->rounded, " rounded"));
}

OpWork work_of_decide_step(const LsDecideStep *args)
{
    size_t words = args->lanes + args->blocks + args->ranks * LS_VOTE_WORDS;
    double bytes = of(LS_F32, words, 1) + of(LS_I32, args->lanes + args->blocks, 1);
    return work(bytes, 0, "decide_step %zu lanes %zu blocks", args->lanes, args->blocks);
}

// How many blocks the tensors have is on the device.
OpWork work_of_trust_ratios(const LsTrustRatios *args)
{
    return work(of(LS_I32, args->tensors, 1), 0, "trust_ratios %zu tensors", args->tensors);
}

OpWork work_of_optimizer_step(const LsOptimizerStep *args)
{
    double bytes = 0;
    size_t n = 0;
    for (size_t p = 0; p < args->count; p++) {
        const LsOptimizerPiece *piece = &args->piece[p];
        n += piece->n;
        bytes += of(LS_F32, piece->n, 3) + given(piece->moment1, LS_F32, piece->n, 2) +
                 given(piece->moment2, LS_F32, piece->n, 2) + given(piece->average, LS_F32, piece->n, 2) +
                 given(piece->weights, args->type, piece->n, 1);
    }
    return work(bytes, 0, "optimizer_step %zu %s", n, args->kind == LS_OPTIMIZER_ADAMW ? "adamw" : "sgd");
}

// ---- Language models ------------------------------------------------------------------------------------

OpWork work_of_embedding(const LsEmbedding *args)
{
    double bytes = 2 * of(args->type, args->rows, args->columns) +
                   of(args->type, args->window, args->columns) + of(LS_I32, args->rows, 1);
    return work(bytes, 0, "embedding %zux%zu %s", args->rows, args->columns, ls_dtype_name(args->type));
}

// Rows of the table: at least one is added to, at most one for each token. It counts as many as the rows are,
// or the whole table where that is less: what tokens that all differ need.
OpWork work_of_embedding_gradient(const LsEmbeddingGradient *args)
{
    size_t touched = args->rows < args->vocabulary ? args->rows : args->vocabulary;
    double bytes = of(args->type, args->rows, args->columns) + 2 * of(LS_F32, touched, args->columns) +
                   of(LS_F32, args->window, args->columns) * touches(args->accumulate) +
                   of(LS_I32, args->rows, 1);
    return work(bytes, 0, "embedding_gradient %zux%zu %s%s", args->rows, args->columns,
        ls_dtype_name(args->type), mark(args->accumulate, " +="));
}

OpWork work_of_layer_norm(const LsLayerNorm *args)
{
    double bytes = of(args->type, args->rows, args->columns) * (args->branch ? 4 : 2) +
                   of(args->type, args->columns, 2) + of(LS_F32, args->rows, 2);
    return work(bytes, 0, "layer_norm %zux%zu %s%s", args->rows, args->columns, ls_dtype_name(args->type),
        mark(args->branch, " branch"));
}

OpWork work_of_layer_norm_backward(const LsLayerNormBackward *args)
{
    double bytes = of(args->type, args->rows, args->columns) * (args->residual ? 4 : 3) +
                   of(args->type, args->columns, 1) + of(LS_F32, args->rows, 2) +
                   of(LS_F32, args->columns, 2) * touches(args->accumulate);
    return work(bytes, 0, "layer_norm_backward %zux%zu %s%s%s", args->rows, args->columns,
        ls_dtype_name(args->type), mark(args->residual, " residual"), mark(args->accumulate, " +="));
}

// Multiply-adds of one product of all queries from `first` on with the keys that each may see.
static double causal(size_t windows, size_t window, size_t first, size_t heads, size_t size)
{
    double pairs = ((double)window * (double)(window + 1) - (double)first * (double)(first + 1)) / 2;
    return (double)windows * pairs * (double)heads * (double)size;
}

OpWork work_of_attention(const LsAttention *args)
{
    size_t rows = args->windows * (args->window - args->first), all = args->windows * args->window;
    size_t width = args->heads * args->size;
    double bytes =
        of(args->type, rows, 2 * width) + of(args->type, all, 2 * width) + of(LS_F32, rows, args->heads);
    double products = 2 * causal(args->windows, args->window, args->first, args->heads, args->size);
    return work(bytes, 2 * products, "attention %zux%zu %zux%zu %s", args->windows, args->window, args->heads,
        args->size, ls_dtype_name(args->type));
}

// Five products: the scores again, then gradients of values, weights, queries and keys.
OpWork work_of_attention_backward(const LsAttentionBackward *args)
{
    size_t rows = args->windows * args->window, width = args->heads * args->size;
    double bytes = of(args->type, rows, 8 * width) + of(LS_F32, rows, args->heads);
    double products = 5 * causal(args->windows, args->window, 0, args->heads, args->size);
    return work(bytes, 2 * products, "attention_backward %zux%zu %zux%zu %s", args->windows, args->window,
        args->heads, args->size, ls_dtype_name(args->type));
}

// ---- Image models ---------------------------------------------------------------------------------------

static double places_of(const LsImageWindow *window)
{
    size_t high = ls_image_places(window, window->height), wide = ls_image_places(window, window->width);
    return (double)window->rows * (double)high * (double)wide;
}

// Products with padding count as well. `weights`: of the filters, whose gradient is F32.
static OpWork convolution(const char *name, const LsConvolutionShape *shape, LsDtype type, double weights)
{
    const LsImageWindow *window = &shape->window;
    double filters = (double)(shape->out * window->kernel * window->kernel) * (double)shape->in;
    double x = (double)(window->rows * window->height * window->width) * (double)shape->in;
    double y = places_of(window) * (double)shape->out;
    return work((x + y) * (double)ls_dtype_size(type) + filters * weights, 2 * places_of(window) * filters,
        "%s %zux%zux%zux%zu>%zu %zu/%zu %s", name, window->rows, window->height, window->width, shape->in,
        shape->out, window->kernel, window->stride, ls_dtype_name(type));
}

OpWork work_of_convolution(const LsConvolution *args)
{
    return convolution("convolution", &args->shape, args->type, (double)ls_dtype_size(args->type));
}

OpWork work_of_convolution_backward_data(const LsConvolutionBackwardData *args)
{
    return convolution(
        "convolution_backward_data", &args->shape, args->type, (double)ls_dtype_size(args->type));
}

OpWork work_of_convolution_backward_weights(const LsConvolutionBackwardWeights *args)
{
    return convolution("convolution_backward_weights", &args->shape, args->type,
        (double)sizeof(float) * touches(args->accumulate));
}

OpWork work_of_batch_norm(const LsBatchNorm *args)
{
    double bytes = of(args->type, args->places, args->channels) * (args->residual ? 3 : 2);
    return work(bytes, 0, "batch_norm %zux%zu %s%s%s%s", args->places, args->channels,
        ls_dtype_name(args->type), mark(args->running, " given"), mark(args->residual, " residual"),
        mark(args->activation == LS_RELU, " relu"));
}

OpWork work_of_batch_norm_backward(const LsBatchNormBackward *args)
{
    int tensors = 3 + (args->activation == LS_RELU) + (args->other != NULL) + (args->dresidual != NULL);
    return work(of(args->type, args->places, args->channels) * tensors, 0,
        "batch_norm_backward %zux%zu %s%s%s%s", args->places, args->channels, ls_dtype_name(args->type),
        mark(args->other, " other"), mark(args->dresidual, " residual"),
        mark(args->activation == LS_RELU, " relu"));
}

static OpWork pool(const char *name, const LsImageWindow *window, size_t channels, LsDtype type, bool places)
{
    double x = of(type, window->rows * window->height * window->width, channels);
    double y = places_of(window) * (double)channels * (double)(ls_dtype_size(type) + places);
    return work(x + y, 0, "%s %zux%zux%zux%zu %zu/%zu %s", name, window->rows, window->height, window->width,
        channels, window->kernel, window->stride, ls_dtype_name(type));
}

OpWork work_of_max_pool(const LsMaxPool *args)
{
    return pool("max_pool", &args->window, args->channels, args->type, args->place != NULL);
}

OpWork work_of_max_pool_backward(const LsMaxPoolBackward *args)
{
    return pool("max_pool_backward", &args->window, args->channels, args->type, true);
}

OpWork work_of_average_pool(const LsAveragePool *args)
{
    return work(of(args->type, args->rows * (args->places + 1), args->channels), 0,
        "average_pool %zux%zux%zu %s", args->rows, args->places, args->channels, ls_dtype_name(args->type));
}

OpWork work_of_average_pool_backward(const LsAveragePoolBackward *args)
{
    return work(of(args->type, args->rows * (args->places + 1), args->channels), 0,
        "average_pool_backward %zux%zux%zu %s", args->rows, args->places, args->channels,
        ls_dtype_name(args->type));
}
