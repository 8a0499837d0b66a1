// Names of op cases, their buffers and what fills them, and runs on a device.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "op_image.h"

// ---- Names ----------------------------------------------------------------------------------------------

static const char *const kind_names[LS_OP_KINDS] = {
    [LS_OP_CAST] = "cast",
    [LS_OP_NORMALIZE] = "normalize",
    [LS_OP_MATMUL] = "matmul",
    [LS_OP_BIAS_GRADIENT] = "bias_gradient",
    [LS_OP_ACTIVATION_BACKWARD] = "activation_backward",
    [LS_OP_DROPOUT] = "dropout",
    [LS_OP_ADD] = "add",
    [LS_OP_CROSS_ENTROPY] = "cross_entropy",
    [LS_OP_BINARY_CROSS_ENTROPY] = "binary_cross_entropy",
    [LS_OP_MEAN_SQUARED_ERROR] = "mean_squared_error",
    [LS_OP_SUM] = "sum",
    [LS_OP_BLOCK_SQUARES] = "block_squares",
    [LS_OP_TREE_ADD] = "tree_add",
    [LS_OP_SGD] = "sgd",
    [LS_OP_ADAMW] = "adamw",
    [LS_OP_DECIDE_STEP] = "decide_step",
    [LS_OP_EMBEDDING] = "embedding",
    [LS_OP_EMBEDDING_GRADIENT] = "embedding_gradient",
    [LS_OP_LAYER_NORM] = "layer_norm",
    [LS_OP_LAYER_NORM_BACKWARD] = "layer_norm_backward",
    [LS_OP_ATTENTION] = "attention",
    [LS_OP_ATTENTION_BACKWARD] = "attention_backward",
    [LS_OP_CONVOLUTION] = "convolution",
    [LS_OP_CONVOLUTION_BACKWARD_DATA] = "convolution_backward_data",
    [LS_OP_CONVOLUTION_BACKWARD_WEIGHTS] = "convolution_backward_weights",
    [LS_OP_BATCH_NORM] = "batch_norm",
    [LS_OP_BATCH_NORM_BACKWARD] = "batch_norm_backward",
    [LS_OP_MAX_POOL] = "max_pool",
    [LS_OP_MAX_POOL_BACKWARD] = "max_pool_backward",
    [LS_OP_AVERAGE_POOL] = "average_pool",
    [LS_OP_AVERAGE_POOL_BACKWARD] = "average_pool_backward",
};

static const char *const decision_names[LS_DECISIONS] = {
    [LS_DECIDE_GOOD] = "good",
    [LS_DECIDE_CLIP] = "clipped",
    [LS_DECIDE_GROW] = "growing",
    [LS_DECIDE_CEILING] = "at the largest scale",
    [LS_DECIDE_BAD_BLOCK] = "with an infinite block",
    [LS_DECIDE_BAD_LOSS] = "with a NaN loss",
    [LS_DECIDE_FLOOR] = "at the smallest scale",
    [LS_DECIDE_BAD_UNSCALED] = "with an infinite block, unscaled",
    [LS_DECIDE_STOP] = "with a stop vote",
    [LS_DECIDE_ERROR] = "with an error vote",
    [LS_DECIDE_ERROR_AND_BAD] = "with an error vote and an infinite block",
};

void ls_op_name(const LsOpCase *op, char *text, size_t size)
{
    static const char *const activations[] = {"", " relu", " gelu"};
    static const char *const derivatives[] = {"", " relu'", " gelu'"};
    char shape[64], dropped[32] = "", pieces[32] = "", windows[64] = "", period[32] = "";
    if (op->kind == LS_OP_DECIDE_STEP) {
        snprintf(text, size, "decide_step of %zu ranks, %zu lanes, %zu blocks, %s", op->rows, op->columns,
            op->depth, decision_names[op->decision]);
        return;
    }
    if (op->kind == LS_OP_MATMUL)
        snprintf(shape, sizeof shape, "%zux%zux%zu %c%c", op->rows, op->columns, op->depth,
            op->transpose_a ? 't' : 'n', op->transpose_b ? 't' : 'n');
    else if (op->kind == LS_OP_TREE_ADD)
        snprintf(shape, sizeof shape, "%zu of %zu", op->depth, op->columns);
    else if (op->height)
        snprintf(shape, sizeof shape, "%zux%zux%zux%zu>%zu %zu/%zu+%zu", op->rows, op->height, op->width,
            op->columns, op->depth, op->kernel, op->stride, op->padding);
    else
        snprintf(shape, sizeof shape, "%zux%zu", op->rows, op->columns);
    if (op->rate > 0)
        snprintf(dropped, sizeof dropped, " rate %g", op->rate);
    if (op->pieces > 1)
        snprintf(pieces, sizeof pieces, " %zu pieces", op->pieces);
    if (op->period)
        snprintf(period, sizeof period, " period %zu", op->period);
    if (op->window)
        snprintf(windows, sizeof windows, " window %zu heads %zu", op->window, op->heads);
    snprintf(text, size, "%s %s %s>%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s", kind_names[op->kind], shape,
        ls_dtype_name(op->type), ls_dtype_name(op->output), op->bias ? " bias" : "",
        activations[op->activation], op->keep ? " keep" : "", derivatives[op->backward],
        op->accumulate ? " accumulate" : "", op->bias_gradient ? " bias-gradient" : "",
        op->rounded ? " rounded" : "", op->in_place ? " in-place" : "", period,
        op->momentum ? " momentum" : "", op->nesterov ? " nesterov" : "",
        op->smoothing > 0 ? " smoothed" : "", dropped, pieces, windows, op->branch ? " branch" : "",
        op->given ? " given" : "");
}

// ---- Buffers --------------------------------------------------------------------------------------------

LsOpBuffer ls_op_numbers(const char *name, LsDtype type, size_t count, LsOpFill fill, bool output)
{
    return (LsOpBuffer){.name = name,
        .type = type,
        .element = ls_dtype_size(type),
        .count = count,
        .fill = fill,
        .output = output};
}

LsOpBuffer ls_op_others(const char *name, size_t element, size_t count, LsOpFill fill)
{
    return (LsOpBuffer){.name = name, .type = LS_U8, .element = element, .count = count, .fill = fill};
}

static size_t product_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t m = op->rows, n = op->columns, k = op->depth;
    b[0] = ls_op_numbers("a", op->type, m * k, LS_FILL_SIGNED, false);
    b[1] = ls_op_numbers("b", op->type, k * n, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("bias", op->type, op->bias ? n : 0, LS_FILL_SIGNED, false);
    b[3] = ls_op_numbers("c", op->output, m * n, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
    b[4] = ls_op_numbers("pre_activation", op->output, op->keep ? m * n : 0, LS_FILL_NOTHING, true);
    b[5] = ls_op_numbers("saved", op->output, op->backward != LS_IDENTITY ? m * n : 0, LS_FILL_SIGNED, false);
    b[6] = ls_op_numbers("bias_gradient", LS_F32, op->bias_gradient ? m : 0,
        op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
    return 7;
}

static size_t loss_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    b[0] = ls_op_numbers("outputs", op->type, n, LS_FILL_SIGNED, op->in_place);
    if (op->kind == LS_OP_CROSS_ENTROPY)
        b[1] = ls_op_others("labels", 4, op->rows, LS_FILL_LABELS);
    else
        b[1] = ls_op_numbers("targets", LS_F32, n, LS_FILL_UNIT, false);
    b[1].bound = op->columns;
    b[2] = ls_op_numbers("loss_scale", LS_F32, 1, LS_FILL_SCALE, false);
    b[3] = ls_op_numbers("row_loss", LS_F32, op->rows, LS_FILL_NOTHING, true);
    b[4] = ls_op_numbers("gradient", op->type, op->in_place ? 0 : n, LS_FILL_NOTHING, true);
    return 5;
}

static size_t optimizer_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->columns;
    bool adamw = op->kind == LS_OP_ADAMW;
    b[0] = ls_op_numbers("master", LS_F32, n, LS_FILL_SIGNED, true);
    b[1] = ls_op_numbers("gradient", LS_F32, n, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("moment1", LS_F32, adamw || op->momentum ? n : 0, LS_FILL_SIGNED, true);
    b[3] = ls_op_numbers("moment2", LS_F32, adamw ? n : 0, LS_FILL_UNIT, true);
    b[4] = ls_op_numbers("weights", op->output, op->output != LS_F32 ? n : 0, LS_FILL_NOTHING, true);
    b[5] = ls_op_others("block_kind", 1, n / LS_BLOCK, LS_FILL_FLAGS);
    b[6] = ls_op_others("control", sizeof(LsStepControl), 1, LS_FILL_CONTROL);
    return 7;
}

static size_t decide_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    b[0] = ls_op_others("words", sizeof(float), op->rows * ls_op_rank_words(op), LS_FILL_WORDS);
    b[1] = ls_op_others("lane_index", sizeof(uint32_t), op->columns, LS_FILL_INDEX);
    b[2] = ls_op_others("block_index", sizeof(uint32_t), op->depth, LS_FILL_INDEX);
    b[3] = ls_op_others("outcome", sizeof(LsStepOutcome), 1, LS_FILL_OUTCOME);
    b[3].output = true;
    b[2].bound = 1; // tells blocks from lanes
    return 4;
}

static size_t tree_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    for (size_t i = 0; i < op->depth; i++)
        b[i] = ls_op_numbers("input", op->type, op->columns, LS_FILL_SIGNED, false);
    b[0].output = op->in_place;
    b[op->depth] = ls_op_numbers("output", op->output, op->in_place ? 0 : op->columns, LS_FILL_NOTHING, true);
    return op->depth + 1;
}

// Two inputs of one type and a result that may replace the first.
static size_t pair_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    b[0] = ls_op_numbers("first", op->type, n, LS_FILL_SIGNED, op->in_place);
    if (op->kind == LS_OP_DROPOUT)
        b[1] = ls_op_others("positions", 8, op->rows / (op->window ? op->window : 1), LS_FILL_POSITIONS);
    else
        b[1] = ls_op_numbers("second", op->type, n, LS_FILL_SIGNED, false);
    b[2] = ls_op_numbers("result", op->type, op->in_place ? 0 : n, LS_FILL_NOTHING, true);
    return 3;
}

size_t ls_op_buffers(const LsOpCase *op, LsOpBuffer b[LS_OP_BUFFERS])
{
    size_t n = op->rows * op->columns;
    if (ls_op_is_language(op))
        return ls_op_language_buffers(op, b);
    if (ls_op_is_image(op))
        return ls_op_image_buffers(op, b);
    switch (op->kind) {
    case LS_OP_MATMUL:
        return product_buffers(op, b);
    case LS_OP_CROSS_ENTROPY:
    case LS_OP_BINARY_CROSS_ENTROPY:
    case LS_OP_MEAN_SQUARED_ERROR:
        return loss_buffers(op, b);
    case LS_OP_SGD:
    case LS_OP_ADAMW:
        return optimizer_buffers(op, b);
    case LS_OP_TREE_ADD:
        return tree_buffers(op, b);
    case LS_OP_DECIDE_STEP:
        return decide_buffers(op, b);
    case LS_OP_CAST:
        b[0] = ls_op_numbers("from", op->type, n, LS_FILL_SIGNED, false);
        b[1] = ls_op_numbers("to", op->output, n, LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_NORMALIZE:
        b[0] = ls_op_numbers("x", op->type, n, op->type == LS_U8 ? LS_FILL_BYTES : LS_FILL_SIGNED, false);
        b[1] = ls_op_numbers("shift", LS_F32, op->period, LS_FILL_SIGNED, false);
        b[2] = ls_op_numbers("scale", LS_F32, op->period, LS_FILL_POSITIVE, false);
        b[3] = ls_op_numbers("y", op->output, n, LS_FILL_NOTHING, true);
        return 4;
    case LS_OP_BIAS_GRADIENT:
        b[0] = ls_op_numbers("dy", op->type, n, LS_FILL_SIGNED, false);
        b[1] =
            ls_op_numbers("db", LS_F32, op->columns, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_SUM:
        b[0] = ls_op_numbers("x", LS_F32, n, LS_FILL_SIGNED, false);
        b[1] = ls_op_numbers("y", LS_F32, 1, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_BLOCK_SQUARES:
        b[0] = ls_op_numbers("x", LS_F32, n, LS_FILL_SIGNED, false);
        b[1] = ls_op_numbers("sums", LS_F32, ls_op_piece_sums(op, op->pieces), LS_FILL_NOTHING, true);
        return 2;
    default:
        return pair_buffers(op, b);
    }
}

// Pieces of block_squares begin anywhere, those of the optimizer on blocks. More pieces than there is to cut
// leaves some empty.
size_t ls_op_piece_begin(const LsOpCase *op, size_t p)
{
    size_t unit = op->kind == LS_OP_BLOCK_SQUARES ? 1 : LS_BLOCK;
    return op->columns / unit * p / op->pieces * unit;
}

size_t ls_op_piece_sums(const LsOpCase *op, size_t p)
{
    size_t sums = 0;
    for (size_t i = 0; i < p; i++)
        sums += (ls_op_piece_begin(op, i + 1) - ls_op_piece_begin(op, i) + LS_BLOCK - 1) / LS_BLOCK;
    return sums;
}

// ---- The exchange of a step: votes, then the rank's lanes, then its blocks, dealt out in turn -------------

static size_t shares(size_t count, size_t ranks)
{
    return (count + ranks - 1) / ranks;
}

size_t ls_op_rank_words(const LsOpCase *op)
{
    return LS_VOTE_WORDS + shares(op->columns, op->rows) + shares(op->depth, op->rows);
}

int32_t ls_op_growth_interval(const LsOpCase *op)
{
    return op->decision == LS_DECIDE_BAD_UNSCALED ? 0 : 6;
}

float ls_op_clip_norm(const LsOpCase *op)
{
    return op->decision == LS_DECIDE_CLIP ? 0.5f : op->decision == LS_DECIDE_GOOD ? 0.0f : 1e9f;
}

static LsStepOutcome outcome_before(const LsOpCase *op)
{
    bool growing = op->decision == LS_DECIDE_GROW || op->decision == LS_DECIDE_CEILING;
    bool least = op->decision == LS_DECIDE_FLOOR || op->decision == LS_DECIDE_BAD_UNSCALED;
    LsStepOutcome outcome = {.control = {.step = 8,
                                 .updates = 7,
                                 .learning_rate = 0.05f,
                                 .gradient_factor = 0.75f,
                                 .bias_correction1 = 0.52f,
                                 .bias_correction2 = 0.007f,
                                 .loss_scale = least                               ? 1.0f
                                               : op->decision == LS_DECIDE_CEILING ? 0x1p24f
                                                                                   : 1024.0f,
                                 .good_steps = growing ? 5 : 3,
                                 .skipped_in_row = 2}};
    memset(&outcome.votes, 0xFF, sizeof outcome.votes);
    return outcome;
}

static uint32_t vote_word(const LsOpCase *op, size_t rank, size_t word)
{
    bool last = rank + 1 == op->rows;
    bool error = op->decision == LS_DECIDE_ERROR || op->decision == LS_DECIDE_ERROR_AND_BAD;
    switch (word) {
    case 0:
        return op->decision == LS_DECIDE_STOP ? (last ? 3 : 1) : 0;
    case 1:
        return error && last ? LS_IO : LS_OK;
    default:
        return (uint32_t)(op->rows - rank); // reserved words are combined as well
    }
}

static float lane_word(const LsOpCase *op, size_t lane, float uniform)
{
    return op->decision == LS_DECIDE_BAD_LOSS && lane == 0 ? NAN : 32.0f * uniform;
}

static float block_word(const LsOpCase *op, size_t block, float uniform)
{
    bool bad = op->decision == LS_DECIDE_BAD_BLOCK || op->decision == LS_DECIDE_FLOOR ||
               op->decision == LS_DECIDE_BAD_UNSCALED || op->decision == LS_DECIDE_ERROR_AND_BAD;
    float scale = outcome_before(op).control.loss_scale;
    return bad && block + 1 == op->depth ? INFINITY : (1.0f + 16.0f * uniform) * scale * scale;
}

// Words that stand for nothing are NaN and must not be read.
static void fill_word(const LsOpCase *op, LsRngKey key, size_t i, float *words)
{
    size_t rank_words = ls_op_rank_words(op), rank = i / rank_words, word = i % rank_words;
    float uniform = ls_rng_uniform(key, 0, i);
    if (word < LS_VOTE_WORDS) {
        uint32_t vote = vote_word(op, rank, word);
        memcpy(&words[i], &vote, sizeof vote);
        return;
    }
    word -= LS_VOTE_WORDS;
    size_t lanes = shares(op->columns, op->rows);
    size_t item = (word < lanes ? word : word - lanes) * op->rows + rank;
    if (item >= (word < lanes ? op->columns : op->depth))
        words[i] = NAN;
    else
        words[i] = word < lanes ? lane_word(op, item, uniform) : block_word(op, item, uniform);
}

static uint32_t index_of(const LsOpCase *op, bool block, size_t item)
{
    size_t before = LS_VOTE_WORDS + (block ? shares(op->columns, op->rows) : 0);
    return (uint32_t)(item % op->rows * ls_op_rank_words(op) + before + item / op->rows);
}

// ---- Contents -------------------------------------------------------------------------------------------

static float number_for(const LsOpCase *op, LsOpFill fill, LsRngKey key, size_t i)
{
    float uniform = ls_rng_uniform(key, 0, i);
    switch (fill) {
    case LS_FILL_SIGNED:
        return 8.0f * uniform - 4.0f;
    case LS_FILL_POSITIVE:
        return uniform + 0.5f;
    case LS_FILL_SCALE: // without one, gradients in F16 would be subnormal numbers
        return (uniform + 0.5f) * (op->type == LS_F16 ? 1024.0f : 1.0f);
    default:
        return uniform;
    }
}

void ls_op_store(void *array, LsDtype type, size_t i, float value)
{
    if (type == LS_F32)
        ((float *)array)[i] = value;
    else
        ((uint16_t *)array)[i] = type == LS_BF16 ? ls_f32_to_bf16(value) : ls_f32_to_f16(value);
}

static void fill_element(const LsOpCase *op, const LsOpBuffer *buffer, LsRngKey key, size_t i, void *image)
{
    switch (buffer->fill) {
    case LS_FILL_NOTHING:
    case LS_FILL_DERIVED:
        memset((char *)image + i * buffer->element, 0xFF, buffer->element);
        return;
    case LS_FILL_BYTES:
        ((uint8_t *)image)[i] = (uint8_t)ls_rng_u32(key, 0, i);
        return;
    case LS_FILL_FLAGS:
        ((uint8_t *)image)[i] = (uint8_t)(i % 2);
        return;
    case LS_FILL_LABELS:
        ((int32_t *)image)[i] = (int32_t)(ls_rng_u32(key, 0, i) % buffer->bound);
        return;
    case LS_FILL_POSITIONS:
        ((uint64_t *)image)[i] = (uint64_t)ls_rng_u32(key, 0, i) << 8;
        return;
    case LS_FILL_CONTROL:
        ((LsStepControl *)image)[i] = outcome_before(op).control;
        return;
    case LS_FILL_OUTCOME:
        ((LsStepOutcome *)image)[i] = outcome_before(op);
        return;
    case LS_FILL_WORDS:
        fill_word(op, key, i, image);
        return;
    case LS_FILL_INDEX:
        ((uint32_t *)image)[i] = index_of(op, buffer->bound != 0, i);
        return;
    default:
        ls_op_store(image, buffer->type, i, number_for(op, buffer->fill, key, i));
    }
}

enum { PERIOD = 1 << 16 };

// Large buffers repeat themselves: speed does not depend on that, and drawing the numbers would take longer
// than what is measured.
static void fill_buffer(const LsOpCase *op, const LsOpBuffer *buffer, LsRngKey key, void *image)
{
    bool repeats = op->large && op->kind != LS_OP_DECIDE_STEP;
    size_t drawn = repeats && buffer->count > PERIOD ? PERIOD : buffer->count;
    for (size_t e = 0; e < drawn; e++)
        fill_element(op, buffer, key, e, image);
    for (size_t e = drawn; e < buffer->count; e += PERIOD) {
        size_t count = buffer->count - e < PERIOD ? buffer->count - e : PERIOD;
        memcpy((char *)image + e * buffer->element, image, count * buffer->element);
    }
}

double ls_op_number(const void *array, LsDtype type, size_t i)
{
    if (type == LS_F32)
        return ((const float *)array)[i];
    uint16_t half = ((const uint16_t *)array)[i];
    return type == LS_BF16 ? ls_bf16_to_f32(half) : ls_f16_to_f32(half);
}

// ---- Runs -----------------------------------------------------------------------------------------------

enum { SHIFTS = 16, STRIDE = 5 }; // beyond 16 each buffer has another distance from its alignment

static LsStatus open_buffer(LsOpRun *run, size_t i, size_t shift)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    if (buffer->count == 0)
        return LS_OK;
    shift = shift < SHIFTS ? shift : (shift + STRIDE * i) % SHIFTS;
    LS_TRY(ls_memory_allocate(buffer->count * buffer->element, &run->image[i]));
    LsRngKey key = ls_rng_key(run->op->seed * LS_OP_BUFFERS + i + 1, (uint32_t)run->op->kind);
    fill_buffer(run->op, buffer, key, run->image[i]);
    if (buffer->output)
        LS_TRY(ls_memory_allocate(buffer->count * buffer->element, &run->result[i]));
    LS_TRY(run->device->ops->allocate(run->device, (buffer->count + shift) * buffer->element, &run->base[i]));
    run->memory[i] = (char *)run->base[i] + shift * buffer->element;
    return LS_OK;
}

LsStatus ls_op_run_open(const LsOpCase *op, LsDevice *device, size_t shift, LsOpRun *run)
{
    *run = (LsOpRun){.op = op, .device = device};
    run->count = ls_op_buffers(op, run->buffers);
    for (size_t i = 0; i < run->count; i++)
        LS_TRY(open_buffer(run, i, shift));
    ls_op_language_derive(op, run->image);
    ls_op_image_derive(op, run->image);
    return ls_op_run_restore(run);
}

LsStatus ls_op_run_restore(LsOpRun *run)
{
    for (size_t i = 0; i < run->count; i++)
        if (run->buffers[i].count)
            LS_TRY(run->device->ops->copy_in(
                run->device, run->memory[i], run->image[i], run->buffers[i].count * run->buffers[i].element));
    return run->device->ops->synchronize(run->device);
}

LsStatus ls_op_run_read(LsOpRun *run)
{
    for (size_t i = 0; i < run->count; i++)
        if (run->result[i])
            LS_TRY(run->device->ops->copy_out(run->device, run->result[i], run->memory[i],
                run->buffers[i].count * run->buffers[i].element));
    return run->device->ops->synchronize(run->device);
}

void ls_op_run_close(LsOpRun *run)
{
    for (size_t i = 0; i < run->count; i++) {
        if (run->base[i])
            run->device->ops->release(run->device, run->base[i]);
        free(run->image[i]);
        free(run->result[i]);
    }
}
