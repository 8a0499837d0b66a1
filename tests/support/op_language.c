// Op cases of language models: buffers and calls.
#include "op_language.h"

bool ls_op_is_language(const LsOpCase *op)
{
    return op->kind >= LS_OP_EMBEDDING && op->kind <= LS_OP_ATTENTION_BACKWARD;
}

// ---- Buffers --------------------------------------------------------------------------------------------

static LsOpBuffer scratch(size_t bytes)
{
    return ls_op_others("scratch", 4, bytes / 4, LS_FILL_NOTHING);
}

static size_t embedding_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns, positions = op->window * op->columns;
    b[0] = ls_op_others("tokens", 4, op->rows, LS_FILL_LABELS);
    b[0].bound = op->depth;
    if (op->kind == LS_OP_EMBEDDING) {
        b[1] = ls_op_numbers("table", op->type, op->depth * op->columns, LS_FILL_SIGNED, false);
        b[2] = ls_op_numbers("positions", op->type, positions, LS_FILL_SIGNED, false);
        b[3] = ls_op_numbers("y", op->type, n, LS_FILL_NOTHING, true);
        return 4;
    }
    b[1] = ls_op_numbers("dy", op->type, n, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("dtable", LS_F32, op->depth * op->columns, LS_FILL_SIGNED, true);
    b[3] = ls_op_numbers(
        "dpositions", LS_F32, positions, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
    b[4] = scratch(ls_embedding_scratch(op->rows, op->depth, op->columns));
    return 5;
}

static size_t layer_norm_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    b[0] = ls_op_numbers("x", op->type, n, LS_FILL_SIGNED, op->branch && op->in_place);
    b[1] = ls_op_numbers("branch", op->type, op->branch ? n : 0, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("weight", op->type, op->columns, LS_FILL_SIGNED, false);
    b[3] = ls_op_numbers("bias", op->type, op->columns, LS_FILL_SIGNED, false);
    b[4] = ls_op_numbers("sum", op->type, op->branch && !op->in_place ? n : 0, LS_FILL_NOTHING, true);
    b[5] = ls_op_numbers("y", op->type, n, LS_FILL_NOTHING, true);
    b[6] = ls_op_numbers("mean", LS_F32, op->rows, LS_FILL_NOTHING, true);
    b[7] = ls_op_numbers("rstd", LS_F32, op->rows, LS_FILL_NOTHING, true);
    return 8;
}

static size_t layer_norm_backward_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    LsOpFill before = op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING;
    bool replaced = op->branch && op->in_place;
    b[0] = ls_op_numbers("x", op->type, n, LS_FILL_SIGNED, false);
    b[1] = ls_op_numbers("dy", op->type, n, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("weight", op->type, op->columns, LS_FILL_SIGNED, false);
    b[3] = ls_op_numbers("mean", LS_F32, op->rows, LS_FILL_UNIT, false);
    b[4] = ls_op_numbers("rstd", LS_F32, op->rows, LS_FILL_POSITIVE, false);
    b[5] = ls_op_numbers("residual", op->type, op->branch ? n : 0, LS_FILL_SIGNED, replaced);
    b[6] = ls_op_numbers("dx", op->type, replaced ? 0 : n, LS_FILL_NOTHING, true);
    b[7] = ls_op_numbers("dweight", LS_F32, op->columns, before, true);
    b[8] = ls_op_numbers("dbias", LS_F32, op->columns, before, true);
    b[9] = scratch(ls_layer_norm_scratch(op->rows, op->columns));
    return 10;
}

static size_t attention_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->heads * op->columns, sums = op->rows * op->heads;
    b[0] = ls_op_numbers("qkv", op->type, 3 * n, LS_FILL_SIGNED, false);
    if (op->kind == LS_OP_ATTENTION) {
        b[1] = ls_op_numbers("out", op->type, n, LS_FILL_NOTHING, true);
        b[2] = ls_op_numbers("log_sum", LS_F32, sums, LS_FILL_NOTHING, true);
        return 3;
    }
    b[1] = ls_op_numbers("out", op->type, n, LS_FILL_DERIVED, false);
    b[2] = ls_op_numbers("dout", op->type, n, LS_FILL_SIGNED, false);
    b[3] = ls_op_numbers("log_sum", LS_F32, sums, LS_FILL_DERIVED, false);
    b[4] = ls_op_numbers("dqkv", op->type, 3 * n, LS_FILL_NOTHING, true);
    b[5] = scratch(ls_attention_scratch(op->rows / op->window, op->window, op->heads, op->columns));
    return 6;
}

size_t ls_op_language_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    switch (op->kind) {
    case LS_OP_EMBEDDING:
    case LS_OP_EMBEDDING_GRADIENT:
        return embedding_buffers(op, b);
    case LS_OP_LAYER_NORM:
        return layer_norm_buffers(op, b);
    case LS_OP_LAYER_NORM_BACKWARD:
        return layer_norm_backward_buffers(op, b);
    default:
        return attention_buffers(op, b);
    }
}

// ---- Calls ----------------------------------------------------------------------------------------------

static LsStatus call_embedding(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsEmbedding args = {.rows = op->rows,
        .window = op->window,
        .columns = op->columns,
        .tokens = b[0],
        .vocabulary = op->depth,
        .table = b[1],
        .positions = b[2],
        .y = b[3],
        .type = op->type};
    return device->ops->embedding(device, &args);
}

static LsStatus call_embedding_gradient(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsEmbeddingGradient args = {.rows = op->rows,
        .window = op->window,
        .columns = op->columns,
        .tokens = b[0],
        .vocabulary = op->depth,
        .dy = b[1],
        .type = op->type,
        .dtable = b[2],
        .dpositions = b[3],
        .accumulate = op->accumulate,
        .scratch = b[4]};
    return device->ops->embedding_gradient(device, &args);
}

static LsStatus call_layer_norm(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsLayerNorm args = {.rows = op->rows,
        .columns = op->columns,
        .x = b[0],
        .branch = b[1],
        .sum = op->in_place ? b[0] : b[4],
        .weight = b[2],
        .bias = b[3],
        .y = b[5],
        .mean = b[6],
        .rstd = b[7],
        .type = op->type};
    return device->ops->layer_norm(device, &args);
}

static LsStatus call_layer_norm_backward(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsLayerNormBackward args = {.rows = op->rows,
        .columns = op->columns,
        .x = b[0],
        .dy = b[1],
        .weight = b[2],
        .mean = b[3],
        .rstd = b[4],
        .residual = b[5],
        .dx = op->branch && op->in_place ? b[5] : b[6],
        .type = op->type,
        .dweight = b[7],
        .dbias = b[8],
        .accumulate = op->accumulate,
        .scratch = b[9]};
    return device->ops->layer_norm_backward(device, &args);
}

static LsStatus call_attention(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsAttention args = {.windows = op->rows / op->window,
        .window = op->window,
        .heads = op->heads,
        .size = op->columns,
        .qkv = b[0],
        .out = b[1],
        .log_sum = b[2],
        .type = op->type};
    return device->ops->attention(device, &args);
}

static LsStatus call_attention_backward(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsAttentionBackward args = {.windows = op->rows / op->window,
        .window = op->window,
        .heads = op->heads,
        .size = op->columns,
        .qkv = b[0],
        .out = b[1],
        .dout = b[2],
        .log_sum = b[3],
        .dqkv = b[4],
        .type = op->type,
        .scratch = b[5]};
    return device->ops->attention_backward(device, &args);
}

LsStatus ls_op_language_call(const LsOpCase *op, LsDevice *device, void *const b[])
{
    switch (op->kind) {
    case LS_OP_EMBEDDING:
        return call_embedding(op, device, b);
    case LS_OP_EMBEDDING_GRADIENT:
        return call_embedding_gradient(op, device, b);
    case LS_OP_LAYER_NORM:
        return call_layer_norm(op, device, b);
    case LS_OP_LAYER_NORM_BACKWARD:
        return call_layer_norm_backward(op, device, b);
    case LS_OP_ATTENTION:
        return call_attention(op, device, b);
    default:
        return call_attention_backward(op, device, b);
    }
}

// Of attention, two products forward and five backward, over the pairs on and below the diagonal.
double ls_op_language_flops(const LsOpCase *op)
{
    double pairs = (double)op->rows * (double)(op->window + 1) / 2 * (double)op->heads;
    switch (op->kind) {
    case LS_OP_ATTENTION:
        return 4 * pairs * (double)op->columns;
    case LS_OP_ATTENTION_BACKWARD:
        return 10 * pairs * (double)op->columns;
    default:
        return 0;
    }
}
