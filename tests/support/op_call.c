// How each kind of case becomes a call of the device.
#include "op_image.h"

static LsStatus call_matmul(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsMatmul args = {.m = op->rows,
        .n = op->columns,
        .k = op->depth,
        .transpose_a = op->transpose_a,
        .transpose_b = op->transpose_b,
        .a = b[0],
        .b = b[1],
        .input_type = op->type,
        .c = b[3],
        .output_type = op->output,
        .accumulate = op->accumulate,
        .bias = b[2],
        .activation = op->activation,
        .pre_activation = b[4],
        .backward = op->backward,
        .saved = b[5],
        .bias_gradient = b[6]};
    return device->ops->matmul(device, &args);
}

static LsStatus call_loss(const LsOpCase *op, LsDevice *device, void *const b[])
{
    bool classes = op->kind == LS_OP_CROSS_ENTROPY;
    LsLossArgs args = {.rows = op->rows,
        .columns = op->columns,
        .outputs = b[0],
        .type = op->type,
        .labels = classes ? b[1] : NULL,
        .targets = classes ? NULL : b[1],
        .smoothing = op->smoothing,
        .gradient_scale = 1.0f / 64,
        .loss_scale = b[2],
        .row_loss = b[3],
        .gradient = op->in_place ? b[0] : b[4]};
    if (classes)
        return device->ops->cross_entropy(device, &args);
    if (op->kind == LS_OP_BINARY_CROSS_ENTROPY)
        return device->ops->binary_cross_entropy(device, &args);
    return device->ops->mean_squared_error(device, &args);
}

static void *part(void *buffer, size_t first, size_t element)
{
    return buffer ? (char *)buffer + first * element : NULL;
}

enum { MOST_PIECES = 256 };

static LsStatus call_optimizer(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsOptimizerPiece pieces[MOST_PIECES];
    for (size_t p = 0; p < op->pieces; p++) {
        size_t first = ls_op_piece_begin(op, p);
        pieces[p] = (LsOptimizerPiece){.n = ls_op_piece_begin(op, p + 1) - first,
            .master = part(b[0], first, sizeof(float)),
            .gradient = part(b[1], first, sizeof(float)),
            .moment1 = part(b[2], first, sizeof(float)),
            .moment2 = part(b[3], first, sizeof(float)),
            .weights = part(b[4], first, ls_dtype_size(op->output)),
            .block_kind = part(b[5], first / LS_BLOCK, 1)};
    }
    LsOptimizerStep args = {.count = op->pieces,
        .piece = pieces,
        .kind = op->kind == LS_OP_ADAMW ? LS_OPTIMIZER_ADAMW : LS_OPTIMIZER_SGD,
        .type = op->output,
        .momentum = 0.9f,
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .epsilon = 1e-8f,
        .weight_decay = 0.1f,
        .nesterov = op->nesterov,
        .control = b[6]};
    return device->ops->optimizer_step(device, &args);
}

static LsStatus call_block_squares(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsSquaresPiece pieces[MOST_PIECES];
    for (size_t p = 0; p < op->pieces; p++) {
        size_t first = ls_op_piece_begin(op, p);
        pieces[p] = (LsSquaresPiece){.n = ls_op_piece_begin(op, p + 1) - first,
            .x = (const float *)b[0] + first,
            .sums = (float *)b[1] + ls_op_piece_sums(op, p)};
    }
    return device->ops->block_squares(device, &(LsBlockSquares){.count = op->pieces, .piece = pieces});
}

static LsStatus call_decide(const LsOpCase *op, LsDevice *device, void *const b[])
{
    LsDecideStep args = {.lanes = op->columns,
        .blocks = op->depth,
        .ranks = op->rows,
        .rank_words = ls_op_rank_words(op),
        .words = b[0],
        .lane_index = b[1],
        .block_index = b[2],
        .samples = 64,
        .learning_rate = 0.025f,
        .clip_norm = ls_op_clip_norm(op),
        .beta1 = 0.9f,
        .beta2 = 0.95f,
        .growth_interval = ls_op_growth_interval(op),
        .outcome = b[3]};
    return device->ops->decide_step(device, &args);
}

// The balanced tree over the inputs: node (i, j) = node (i, m) + node (m, j).
static size_t tree_pairs(size_t first, size_t end, uint16_t (*pairs)[2], size_t count)
{
    if (end - first < 2)
        return count;
    size_t middle = first + (end - first + 1) / 2;
    count = tree_pairs(first, middle, pairs, count);
    count = tree_pairs(middle, end, pairs, count);
    pairs[count][0] = (uint16_t)first;
    pairs[count][1] = (uint16_t)middle;
    return count + 1;
}

static LsStatus call_tree_add(const LsOpCase *op, LsDevice *device, void *const b[])
{
    uint16_t pairs[LS_OP_BUFFERS][2];
    const void *inputs[LS_OP_BUFFERS];
    for (size_t i = 0; i < op->depth; i++)
        inputs[i] = b[i];
    LsTreeAdd args = {.n = op->columns,
        .count = op->depth,
        .inputs = inputs,
        .adds = tree_pairs(0, op->depth, pairs, 0),
        .pairs = (const uint16_t(*)[2])pairs,
        .result = 0,
        .output = op->in_place ? b[0] : b[op->depth],
        .type = op->type,
        .output_type = op->output,
        .rounded = op->rounded};
    return device->ops->tree_add(device, &args);
}

static LsStatus call_matrix_op(const LsOpCase *op, LsDevice *device, void *const b[])
{
    size_t rows = op->rows, columns = op->columns;
    void *result = op->in_place ? b[0] : b[2];
    switch (op->kind) {
    case LS_OP_NORMALIZE:
        return device->ops->normalize(device, &(LsNormalize){.rows = rows,
                                                  .columns = columns,
                                                  .x = b[0],
                                                  .x_type = op->type,
                                                  .shift = b[1],
                                                  .scale = b[2],
                                                  .period = op->period,
                                                  .y = b[3],
                                                  .y_type = op->output});
    case LS_OP_BIAS_GRADIENT:
        return device->ops->bias_gradient(device, &(LsBiasGradient){.rows = rows,
                                                      .columns = columns,
                                                      .dy = b[0],
                                                      .type = op->type,
                                                      .db = b[1],
                                                      .accumulate = op->accumulate});
    case LS_OP_ACTIVATION_BACKWARD: // the first input, which dx may replace, is dy
        return device->ops->activation_backward(device, &(LsActivationBackward){.n = rows * columns,
                                                            .activation = op->activation,
                                                            .saved = b[1],
                                                            .dy = b[0],
                                                            .dx = result,
                                                            .type = op->type});
    case LS_OP_DROPOUT:
        return device->ops->dropout(device, &(LsDropout){.rows = rows,
                                                .columns = columns,
                                                .x = b[0],
                                                .y = result,
                                                .type = op->type,
                                                .rate = op->rate,
                                                .seed = 11,
                                                .purpose = LS_RNG_DROPOUT + 1,
                                                .positions = b[1],
                                                .rows_per_position = op->window});
    default:
        return device->ops->add(
            device, &(LsAdd){.n = rows * columns, .a = b[0], .b = b[1], .y = result, .type = op->type});
    }
}

LsStatus ls_op_call(const LsOpCase *op, LsDevice *device, void *const b[])
{
    size_t n = op->rows * op->columns;
    if (ls_op_is_language(op))
        return ls_op_language_call(op, device, b);
    if (ls_op_is_image(op))
        return ls_op_image_call(op, device, b);
    switch (op->kind) {
    case LS_OP_MATMUL:
        return call_matmul(op, device, b);
    case LS_OP_CROSS_ENTROPY:
    case LS_OP_BINARY_CROSS_ENTROPY:
    case LS_OP_MEAN_SQUARED_ERROR:
        return call_loss(op, device, b);
    case LS_OP_SGD:
    case LS_OP_ADAMW:
        return call_optimizer(op, device, b);
    case LS_OP_TREE_ADD:
        return call_tree_add(op, device, b);
    case LS_OP_CAST:
        return device->ops->cast(device,
            &(LsCast){.n = n, .from = b[0], .from_type = op->type, .to = b[1], .to_type = op->output});
    case LS_OP_SUM:
        return device->ops->sum(device, &(LsSum){.n = n, .x = b[0], .y = b[1], .accumulate = op->accumulate});
    case LS_OP_BLOCK_SQUARES:
        return call_block_squares(op, device, b);
    case LS_OP_DECIDE_STEP:
        return call_decide(op, device, b);
    default:
        return call_matrix_op(op, device, b);
    }
}

bool ls_op_is_exact(const LsOpCase *op)
{
    switch (op->kind) {
    case LS_OP_CAST:
    case LS_OP_NORMALIZE:
    case LS_OP_ADD:
    case LS_OP_DROPOUT:
    case LS_OP_TREE_ADD:
    case LS_OP_SGD:
    case LS_OP_ADAMW:
    case LS_OP_EMBEDDING:
        return true;
    case LS_OP_ACTIVATION_BACKWARD:
        return op->activation != LS_GELU;
    case LS_OP_MAX_POOL:
        return true;
    default:
        return false;
    }
}

bool ls_op_multiplies(const LsOpCase *op)
{
    return op->kind == LS_OP_MATMUL || op->kind == LS_OP_ATTENTION || op->kind == LS_OP_ATTENTION_BACKWARD ||
           (op->kind >= LS_OP_CONVOLUTION && op->kind <= LS_OP_CONVOLUTION_BACKWARD_WEIGHTS);
}

double ls_op_flops(const LsOpCase *op)
{
    if (ls_op_is_image(op))
        return ls_op_image_flops(op);
    if (op->kind != LS_OP_MATMUL)
        return ls_op_language_flops(op);
    return 2.0 * (double)op->rows * (double)op->columns * (double)op->depth;
}

double ls_op_bytes(const LsOpCase *op)
{
    LsOpBuffer buffers[LS_OP_BUFFERS];
    size_t count = ls_op_buffers(op, buffers);
    double bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bool read = buffers[i].fill != LS_FILL_NOTHING;
        bytes += (double)buffers[i].count * (double)buffers[i].element * (read + buffers[i].output);
    }
    return bytes;
}
