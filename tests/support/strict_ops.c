// Ops of the strict device: what memory each may read and write.
#include <string.h>

#include "strict_state.h"

enum { MOST_PIECES = 256 }; // of one call

static LsStatus strict_cast(LsDevice *device, const LsCast *args)
{
    const Span spans[] = {{"from", args->from, ls_strict_bytes(args->from_type, args->n), false},
        {"to", args->to, ls_strict_bytes(args->to_type, args->n), true}};
    RUN(device, cast, spans, args);
}

static LsStatus strict_normalize(LsDevice *device, const LsNormalize *args)
{
    size_t n = args->rows * args->columns, features = args->period;
    const Span spans[] = {{"x", args->x, ls_strict_bytes(args->x_type, n), false},
        {"shift", args->shift, ls_strict_bytes(LS_F32, features), false},
        {"scale", args->scale, ls_strict_bytes(LS_F32, features), false},
        {"y", args->y, ls_strict_bytes(args->y_type, n), true}};
    RUN(device, normalize, spans, args);
}

static LsStatus strict_matmul(LsDevice *device, const LsMatmul *args)
{
    const Span spans[] = {{"a", args->a, ls_strict_bytes(args->input_type, args->m * args->k), false},
        {"b", args->b, ls_strict_bytes(args->input_type, args->k * args->n), false},
        {"bias", args->bias, ls_strict_bytes(args->input_type, args->n), false},
        {"c", args->c, ls_strict_bytes(args->output_type, args->m * args->n), true},
        {"pre_activation", args->pre_activation, ls_strict_bytes(args->output_type, args->m * args->n), true},
        {"saved", args->saved, ls_strict_bytes(args->output_type, args->m * args->n), false},
        {"bias_gradient", args->bias_gradient, ls_strict_bytes(LS_F32, args->m), true}};
    RUN(device, matmul, spans, args);
}

static LsStatus strict_bias_gradient(LsDevice *device, const LsBiasGradient *args)
{
    const Span spans[] = {{"dy", args->dy, ls_strict_bytes(args->type, args->rows * args->columns), false},
        {"db", args->db, ls_strict_bytes(LS_F32, args->columns), true}};
    RUN(device, bias_gradient, spans, args);
}

static LsStatus strict_activation_backward(LsDevice *device, const LsActivationBackward *args)
{
    size_t bytes = ls_strict_bytes(args->type, args->n);
    const Span spans[] = {
        {"saved", args->saved, bytes, false}, {"dy", args->dy, bytes, false}, {"dx", args->dx, bytes, true}};
    RUN(device, activation_backward, spans, args);
}

static LsStatus strict_dropout(LsDevice *device, const LsDropout *args)
{
    size_t sample_rows = args->rows_per_position > 1 ? args->rows_per_position : 1;
    size_t bytes = ls_strict_bytes(args->type, args->rows * args->columns);
    const Span spans[] = {{"x", args->x, bytes, false}, {"y", args->y, bytes, true},
        {"positions", args->positions, args->rows / sample_rows * sizeof *args->positions, false}};
    RUN(device, dropout, spans, args);
}

static LsStatus strict_add(LsDevice *device, const LsAdd *args)
{
    size_t bytes = ls_strict_bytes(args->type, args->n);
    const Span spans[] = {
        {"a", args->a, bytes, false}, {"b", args->b, bytes, false}, {"y", args->y, bytes, true}};
    RUN(device, add, spans, args);
}

enum { LOSS_SPANS = 6 };

static void loss_spans(const LsLossArgs *args, Span spans[LOSS_SPANS])
{
    size_t n = args->rows * args->columns;
    const Span list[LOSS_SPANS] = {{"outputs", args->outputs, ls_strict_bytes(args->type, n), false},
        {"labels", args->labels, args->rows * sizeof *args->labels, false},
        {"targets", args->targets, n * sizeof *args->targets, false},
        {"loss_scale", args->loss_scale, sizeof *args->loss_scale, false},
        {"row_loss", args->row_loss, args->rows * sizeof *args->row_loss, true},
        {"gradient", args->gradient, ls_strict_bytes(args->type, n), true}};
    memcpy(spans, list, sizeof list);
}

static LsStatus strict_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, cross_entropy, spans, args);
}

static LsStatus strict_binary_cross_entropy(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, binary_cross_entropy, spans, args);
}

static LsStatus strict_mean_squared_error(LsDevice *device, const LsLossArgs *args)
{
    Span spans[LOSS_SPANS];
    loss_spans(args, spans);
    RUN(device, mean_squared_error, spans, args);
}

static LsStatus strict_sum(LsDevice *device, const LsSum *args)
{
    const Span spans[] = {
        {"x", args->x, args->n * sizeof *args->x, false}, {"y", args->y, sizeof *args->y, true}};
    RUN(device, sum, spans, args);
}

static LsStatus strict_block_squares(LsDevice *device, const LsBlockSquares *args)
{
    LS_TRY(ls_strict_check_host((StrictDevice *)device, "block_squares", "piece", args->piece));
    if (args->count > MOST_PIECES)
        return LS_FAIL(LS_INTERNAL, "strict device: block_squares of %zu pieces", args->count);
    Span spans[3 * MOST_PIECES], *span = spans;
    for (size_t p = 0; p < args->count; p++) {
        const LsSquaresPiece *piece = &args->piece[p];
        size_t blocks = (piece->n + LS_BLOCK - 1) / LS_BLOCK;
        *span++ = (Span){"x", piece->x, piece->n * sizeof *piece->x, false};
        *span++ = (Span){"sums", piece->sums, blocks * sizeof *piece->sums, true};
        *span++ = (Span){"block_kind", piece->block_kind, blocks, false};
    }
    RUN_SPANS(device, block_squares, (size_t)(span - spans), spans, args);
}

static LsStatus strict_tree_add(LsDevice *device, const LsTreeAdd *args)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    LS_TRY(ls_strict_check_host(strict, "tree_add", "inputs", args->inputs));
    LS_TRY(ls_strict_check_host(strict, "tree_add", "pairs", args->pairs));
    if (args->count > LS_TREE_INPUTS)
        return LS_FAIL(LS_INTERNAL, "tree_add: %zu inputs", args->count);
    Span spans[LS_TREE_INPUTS + 1] = {
        {"output", args->output, args->n * ls_dtype_size(args->output_type), true}};
    for (size_t i = 0; i < args->count; i++)
        spans[i + 1] = (Span){"an input", args->inputs[i], args->n * ls_dtype_size(args->type), false};
    RUN(device, tree_add, spans, args);
}

static size_t words_used(const uint32_t *index, size_t count)
{
    size_t words = 0;
    for (size_t i = 0; i < count; i++)
        words = index[i] + (size_t)1 > words ? index[i] + (size_t)1 : words;
    return words;
}

static LsStatus strict_fingerprint_bits(LsDevice *device, const LsFingerprint *args)
{
    const Span spans[] = {
        {"x", args->x, args->n * sizeof *args->x, false}, {"sum", args->sum, sizeof *args->sum, true}};
    RUN(device, fingerprint_bits, spans, args);
}

static LsStatus strict_decide_step(LsDevice *device, const LsDecideStep *args)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    Span spans[] = {{"lane_index", args->lane_index, args->lanes * sizeof *args->lane_index, false},
        {"block_index", args->block_index, args->blocks * sizeof *args->block_index, false},
        {"outcome", args->outcome, sizeof *args->outcome, true}, {"words", args->words, 0, false}};
    // The indexes say how many words are read.
    LS_TRY(ls_strict_open_spans(strict, "decide_step", 2, spans));
    size_t lane_words = words_used(args->lane_index, args->lanes);
    size_t block_words = words_used(args->block_index, args->blocks);
    ls_strict_close_spans(strict, 2, spans);
    size_t vote_words = args->ranks ? (args->ranks - 1) * args->rank_words + LS_VOTE_WORDS : 0;
    size_t words = lane_words > block_words ? lane_words : block_words;
    words = words > vote_words ? words : vote_words;
    if (args->check_words > 0) {
        size_t first = args->first_check + args->check_words, second = args->second_check + args->check_words;
        words = words > first ? words : first;
        words = words > second ? words : second;
    }
    spans[3].bytes = words * sizeof *args->words;
    RUN(device, decide_step, spans, args);
}

static LsStatus strict_trust_ratios(LsDevice *device, const LsTrustRatios *args)
{
    const StrictDevice *strict = (const StrictDevice *)device;
    size_t firsts = (args->tensors + 1) * sizeof *args->first;
    Span first = {"first", args->first, firsts, false};
    LS_TRY(ls_strict_open_spans(strict, "trust_ratios", 1, &first));
    size_t blocks = args->first[args->tensors];
    ls_strict_close_spans(strict, 1, &first);
    Span indexes[] = {{"gradient_index", args->gradient_index, blocks * sizeof(uint32_t), false},
        {"weight_index", args->weight_index, blocks * sizeof(uint32_t), false}};
    LS_TRY(ls_strict_open_spans(strict, "trust_ratios", 2, indexes));
    size_t gradients = words_used(args->gradient_index, blocks),
           weights = words_used(args->weight_index, blocks);
    ls_strict_close_spans(strict, 2, indexes);
    const Span spans[] = {first, indexes[0], indexes[1], {"adapts", args->adapts, args->tensors, false},
        {"words", args->words, (gradients > weights ? gradients : weights) * sizeof(float), false},
        {"control", args->control, sizeof *args->control, false},
        {"ratio", args->ratio, blocks * sizeof *args->ratio, true}};
    RUN(device, trust_ratios, spans, args);
}

enum { PIECE_SPANS = 8 };

static void piece_spans(const LsOptimizerStep *args, const LsOptimizerPiece *piece, Span spans[PIECE_SPANS])
{
    size_t bytes = piece->n * sizeof(float);
    const Span list[PIECE_SPANS] = {{"master", piece->master, bytes, true},
        {"gradient", piece->gradient, bytes, false}, {"moment1", piece->moment1, bytes, true},
        {"moment2", piece->moment2, bytes, true},
        {"weights", piece->weights, ls_strict_bytes(args->type, piece->n), true},
        {"block_kind", piece->block_kind, piece->n / LS_BLOCK, false},
        {"average", piece->average, bytes, true},
        {"block_ratio", piece->block_ratio, piece->n / LS_BLOCK * sizeof(float), false}};
    memcpy(spans, list, sizeof list);
}

static LsStatus strict_optimizer_step(LsDevice *device, const LsOptimizerStep *args)
{
    LS_TRY(ls_strict_check_host((StrictDevice *)device, "optimizer_step", "piece", args->piece));
    if (args->count > MOST_PIECES)
        return LS_FAIL(LS_INTERNAL, "strict device: optimizer_step of %zu pieces", args->count);
    Span spans[1 + PIECE_SPANS * MOST_PIECES] = {{"control", args->control, sizeof *args->control, false}};
    for (size_t p = 0; p < args->count; p++)
        piece_spans(args, &args->piece[p], spans + 1 + p * PIECE_SPANS);
    RUN_SPANS(device, optimizer_step, 1 + PIECE_SPANS * args->count, spans, args);
}

static LsStatus strict_embedding(LsDevice *device, const LsEmbedding *args)
{
    size_t row = ls_strict_bytes(args->type, args->columns);
    const Span spans[] = {{"tokens", args->tokens, args->rows * sizeof *args->tokens, false},
        {"table", args->table, args->vocabulary * row, false},
        {"positions", args->positions, args->window * row, false}, {"y", args->y, args->rows * row, true}};
    RUN(device, embedding, spans, args);
}

static LsStatus strict_embedding_gradient(LsDevice *device, const LsEmbeddingGradient *args)
{
    size_t columns = args->columns;
    const Span spans[] = {{"tokens", args->tokens, args->rows * sizeof *args->tokens, false},
        {"dy", args->dy, ls_strict_bytes(args->type, args->rows * columns), false},
        {"dtable", args->dtable, ls_strict_bytes(LS_F32, args->vocabulary * columns), true},
        {"dpositions", args->dpositions, ls_strict_bytes(LS_F32, args->window * columns), true},
        {"scratch", args->scratch, ls_embedding_scratch(args->rows, args->vocabulary, columns), true}};
    RUN(device, embedding_gradient, spans, args);
}

static LsStatus strict_layer_norm(LsDevice *device, const LsLayerNorm *args)
{
    size_t row = ls_strict_bytes(args->type, args->columns), all = args->rows * row;
    const Span spans[] = {{"x", args->x, all, false}, {"branch", args->branch, all, false},
        {"sum", args->branch ? args->sum : NULL, all, true}, {"weight", args->weight, row, false},
        {"bias", args->bias, row, false}, {"y", args->y, all, true},
        {"mean", args->mean, ls_strict_bytes(LS_F32, args->rows), true},
        {"rstd", args->rstd, ls_strict_bytes(LS_F32, args->rows), true}};
    RUN(device, layer_norm, spans, args);
}

static LsStatus strict_layer_norm_backward(LsDevice *device, const LsLayerNormBackward *args)
{
    size_t row = ls_strict_bytes(args->type, args->columns), all = args->rows * row;
    const Span spans[] = {{"x", args->x, all, false}, {"dy", args->dy, all, false},
        {"weight", args->weight, row, false},
        {"mean", args->mean, ls_strict_bytes(LS_F32, args->rows), false},
        {"rstd", args->rstd, ls_strict_bytes(LS_F32, args->rows), false},
        {"residual", args->residual, all, false}, {"dx", args->dx, all, true},
        {"dweight", args->dweight, ls_strict_bytes(LS_F32, args->columns), true},
        {"dbias", args->dbias, ls_strict_bytes(LS_F32, args->columns), true},
        {"scratch", args->scratch, ls_layer_norm_scratch(args->rows, args->columns), true}};
    RUN(device, layer_norm_backward, spans, args);
}

static LsStatus strict_attention(LsDevice *device, const LsAttention *args)
{
    size_t rows = args->windows * args->window, width = ls_strict_bytes(args->type, args->heads * args->size);
    const Span spans[] = {{"qkv", args->qkv, 3 * rows * width, false}, {"out", args->out, rows * width, true},
        {"log_sum", args->log_sum, ls_strict_bytes(LS_F32, rows * args->heads), true}};
    RUN(device, attention, spans, args);
}

static LsStatus strict_attention_backward(LsDevice *device, const LsAttentionBackward *args)
{
    size_t rows = args->windows * args->window, width = ls_strict_bytes(args->type, args->heads * args->size);
    size_t scratch = ls_attention_scratch(args->windows, args->window, args->heads, args->size);
    const Span spans[] = {{"qkv", args->qkv, 3 * rows * width, false},
        {"out", args->out, rows * width, false}, {"dout", args->dout, rows * width, false},
        {"log_sum", args->log_sum, ls_strict_bytes(LS_F32, rows * args->heads), false},
        {"dqkv", args->dqkv, 3 * rows * width, true}, {"scratch", args->scratch, scratch, true}};
    RUN(device, attention_backward, spans, args);
}

void ls_strict_add_ops(LsDeviceOps *ops)
{
    ops->embedding = strict_embedding;
    ops->embedding_gradient = strict_embedding_gradient;
    ops->layer_norm = strict_layer_norm;
    ops->layer_norm_backward = strict_layer_norm_backward;
    ops->attention = strict_attention;
    ops->attention_backward = strict_attention_backward;
    ls_strict_add_image_ops(ops);
    ops->cast = strict_cast;
    ops->normalize = strict_normalize;
    ops->matmul = strict_matmul;
    ops->bias_gradient = strict_bias_gradient;
    ops->activation_backward = strict_activation_backward;
    ops->dropout = strict_dropout;
    ops->add = strict_add;
    ops->cross_entropy = strict_cross_entropy;
    ops->binary_cross_entropy = strict_binary_cross_entropy;
    ops->mean_squared_error = strict_mean_squared_error;
    ops->sum = strict_sum;
    ops->block_squares = strict_block_squares;
    ops->tree_add = strict_tree_add;
    ops->fingerprint_bits = strict_fingerprint_bits;
    ops->decide_step = strict_decide_step;
    ops->trust_ratios = strict_trust_ratios;
    ops->optimizer_step = strict_optimizer_step;
}
