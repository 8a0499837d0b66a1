#include "op_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

// ---- The list -------------------------------------------------------------------------------------------

typedef struct List {
    LsOpCase *cases;
    size_t count, capacity;
    LsStatus status;
} List;

static void put(List *list, LsOpCase op)
{
    if (list->status != LS_OK)
        return;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        LsOpCase *larger = realloc(list->cases, capacity * sizeof *larger);
        if (!larger) {
            list->status = LS_FAIL(LS_INTERNAL, "no memory for the list of op cases");
            return;
        }
        list->cases = larger;
        list->capacity = capacity;
    }
    list->cases[list->count++] = op;
}

// Odd sizes on both sides of registers (16), panels (64), oneDNN's blocks and the tiles of dropout.
static const size_t shapes[][3] = {
    {1, 1, 1}, {1, 10, 7}, {33, 17, 65}, {64, 64, 64}, {5, 1, 128}, {129, 70, 33}, {48, 130, 257}};

static void put_products(List *list, LsDtype type, LsDtype output)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        LsOpCase op = {.kind = LS_OP_MATMUL,
            .type = type,
            .output = output,
            .rows = shapes[s][0],
            .columns = shapes[s][1],
            .depth = shapes[s][2]};
        for (int transposed = 0; transposed < 4; transposed++) {
            op.transpose_a = transposed & 1;
            op.transpose_b = transposed & 2;
            put(list, op);
        }
        op.transpose_a = true;
        op.transpose_b = false;
        op.accumulate = true;
        put(list, op);
        op.transpose_a = op.accumulate = false;
        op.transpose_b = op.bias = true;
        for (int activation = LS_IDENTITY; activation <= LS_GELU; activation++) {
            op.activation = (LsActivation)activation;
            op.keep = false;
            put(list, op);
            op.keep = activation != LS_IDENTITY;
            if (op.keep)
                put(list, op);
        }
        op.bias = false;
        op.keep = true;
        put(list, op);
    }
}

static void put_large_products(List *list, LsDtype type)
{
    static const size_t layers[][3] = {
        {256, 1024, 1024}, {1024, 1024, 1024}, {256, 1024, 128}, {1024, 1024, 128}, {1024, 10, 1024}};
    for (size_t l = 0; l < sizeof layers / sizeof *layers; l++) {
        size_t rows = layers[l][0], out = layers[l][1], in = layers[l][2];
        LsOpCase op = {.kind = LS_OP_MATMUL, .type = type, .output = type, .large = true};
        LsOpCase forward = op, inputs = op, weights = op;
        forward.rows = rows, forward.columns = out, forward.depth = in;
        forward.transpose_b = forward.bias = true, forward.activation = LS_RELU;
        put(list, forward);
        forward.activation = LS_GELU;
        put(list, forward);
        forward.keep = true;
        put(list, forward);
        inputs.rows = rows, inputs.columns = in, inputs.depth = out;
        put(list, inputs);
        weights.rows = out, weights.columns = in, weights.depth = rows;
        weights.transpose_a = weights.accumulate = true, weights.output = LS_F32;
        put(list, weights);
    }
}

static void put_matrix_ops(List *list, size_t rows, size_t columns, LsDtype type, bool large)
{
    LsOpCase op = {.type = type, .output = type, .rows = rows, .columns = columns, .large = large};
    for (int variant = 0; variant < 2; variant++) {
        LsOpCase bias = op, dropout = op, raw = op, entropy = op, backward = op;
        bias.kind = LS_OP_BIAS_GRADIENT, bias.accumulate = variant;
        put(list, bias);
        dropout.kind = LS_OP_DROPOUT, dropout.rate = variant ? 0.1 : 0.5, dropout.in_place = variant;
        put(list, dropout);
        raw.kind = LS_OP_NORMALIZE, raw.uniform = variant, raw.type = LS_U8;
        put(list, raw);
        raw.type = LS_F32;
        put(list, raw);
        entropy.kind = LS_OP_CROSS_ENTROPY, entropy.smoothing = variant ? 0.1f : 0.0f;
        entropy.in_place = variant;
        put(list, entropy);
        backward.kind = LS_OP_ACTIVATION_BACKWARD, backward.activation = variant ? LS_GELU : LS_RELU;
        backward.in_place = variant;
        put(list, backward);
    }
    op.kind = LS_OP_ADD;
    put(list, op);
    op.in_place = true;
    put(list, op);
    op.kind = LS_OP_BINARY_CROSS_ENTROPY;
    put(list, op);
    op.kind = LS_OP_MEAN_SQUARED_ERROR;
    put(list, op);
}

static void put_vector_ops(List *list, size_t n, bool large)
{
    LsOpCase op = {.type = LS_F32, .output = LS_BF16, .rows = 1, .columns = n, .large = large};
    op.kind = LS_OP_CAST;
    put(list, op);
    op.type = LS_BF16, op.output = LS_F32;
    put(list, op);
    op.type = op.output = LS_F32;
    op.kind = LS_OP_SUM;
    put(list, op);
    op.accumulate = true;
    put(list, op);
    op.accumulate = false;
    op.kind = LS_OP_BLOCK_SQUARES;
    put(list, op);
    op.kind = LS_OP_TREE_ADD;
    for (op.depth = 1; op.depth <= 8; op.depth += op.depth == 1 ? 2 : 5) {
        op.in_place = false;
        put(list, op);
        op.in_place = true;
        put(list, op);
    }
}

static void put_optimizer(List *list, size_t n, bool large)
{
    for (int variant = 0; variant < 4; variant++) {
        LsOpCase op = {.kind = variant < 3 ? LS_OP_SGD : LS_OP_ADAMW,
            .type = LS_F32,
            .output = LS_BF16,
            .rows = 1,
            .columns = n,
            .momentum = variant == 1 || variant == 2,
            .nesterov = variant == 2,
            .large = large};
        put(list, op);
        op.output = LS_F32;
        put(list, op);
    }
}

LsStatus ls_op_cases(LsOpCase **cases, size_t *count)
{
    List list = {.status = LS_OK};
    put_products(&list, LS_F32, LS_F32);
    put_products(&list, LS_BF16, LS_F32);
    put_products(&list, LS_BF16, LS_BF16);
    static const size_t matrices[][2] = {{1, 1}, {3, 10}, {70, 17}, {65, 64}, {130, 131}, {2, 1000}};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        put_matrix_ops(&list, matrices[i][0], matrices[i][1], LS_F32, false);
        put_matrix_ops(&list, matrices[i][0], matrices[i][1], LS_BF16, false);
    }
    static const size_t lengths[] = {1, 15, 16, 33, 1000, LS_BLOCK, 2 * LS_BLOCK + 77};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        put_vector_ops(&list, lengths[i], false);
    put_optimizer(&list, 2 * LS_BLOCK, false);
    put_large_products(&list, LS_F32);
    put_large_products(&list, LS_BF16);
    put_matrix_ops(&list, 256, 1024, LS_F32, true);
    put_matrix_ops(&list, 256, 1024, LS_BF16, true);
    put_vector_ops(&list, 1u << 20, true);
    put_optimizer(&list, 1u << 20, true);
    if (list.status != LS_OK) {
        free(list.cases);
        return list.status;
    }
    *cases = list.cases;
    *count = list.count;
    return LS_OK;
}

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
};

void ls_op_name(const LsOpCase *op, char *text, size_t size)
{
    static const char *const activations[] = {"", " relu", " gelu"};
    char shape[64], dropped[32] = "";
    if (op->kind == LS_OP_MATMUL)
        snprintf(shape, sizeof shape, "%zux%zux%zu %c%c", op->rows, op->columns, op->depth,
            op->transpose_a ? 't' : 'n', op->transpose_b ? 't' : 'n');
    else if (op->kind == LS_OP_TREE_ADD)
        snprintf(shape, sizeof shape, "%zu of %zu", op->depth, op->columns);
    else
        snprintf(shape, sizeof shape, "%zux%zu", op->rows, op->columns);
    if (op->rate > 0)
        snprintf(dropped, sizeof dropped, " rate %g", op->rate);
    snprintf(text, size, "%s %s %s>%s%s%s%s%s%s%s%s%s%s%s", kind_names[op->kind], shape,
        ls_dtype_name(op->type), ls_dtype_name(op->output), op->bias ? " bias" : "",
        activations[op->activation], op->keep ? " keep" : "", op->accumulate ? " accumulate" : "",
        op->in_place ? " in-place" : "", op->uniform ? " uniform" : "", op->momentum ? " momentum" : "",
        op->nesterov ? " nesterov" : "", op->smoothing > 0 ? " smoothed" : "", dropped);
}

// ---- Buffers --------------------------------------------------------------------------------------------

static LsOpBuffer numbers(const char *name, LsDtype type, size_t count, LsOpFill fill, bool output)
{
    return (LsOpBuffer){.name = name,
        .type = type,
        .element = ls_dtype_size(type),
        .count = count,
        .fill = fill,
        .output = output};
}

static LsOpBuffer others(const char *name, size_t element, size_t count, LsOpFill fill)
{
    return (LsOpBuffer){.name = name, .type = LS_U8, .element = element, .count = count, .fill = fill};
}

static size_t product_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t m = op->rows, n = op->columns, k = op->depth;
    b[0] = numbers("a", op->type, m * k, LS_FILL_SIGNED, false);
    b[1] = numbers("b", op->type, k * n, LS_FILL_SIGNED, false);
    b[2] = numbers("bias", op->type, op->bias ? n : 0, LS_FILL_SIGNED, false);
    b[3] = numbers("c", op->output, m * n, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
    b[4] = numbers("pre_activation", op->output, op->keep ? m * n : 0, LS_FILL_NOTHING, true);
    return 5;
}

static size_t loss_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    b[0] = numbers("outputs", op->type, n, LS_FILL_SIGNED, op->in_place);
    if (op->kind == LS_OP_CROSS_ENTROPY)
        b[1] = others("labels", 4, op->rows, LS_FILL_LABELS);
    else
        b[1] = numbers("targets", LS_F32, n, LS_FILL_UNIT, false);
    b[1].bound = op->columns;
    b[2] = numbers("loss_scale", LS_F32, 1, LS_FILL_POSITIVE, false);
    b[3] = numbers("row_loss", LS_F32, op->rows, LS_FILL_NOTHING, true);
    b[4] = numbers("gradient", op->type, op->in_place ? 0 : n, LS_FILL_NOTHING, true);
    return 5;
}

static size_t optimizer_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->columns;
    bool adamw = op->kind == LS_OP_ADAMW;
    b[0] = numbers("master", LS_F32, n, LS_FILL_SIGNED, true);
    b[1] = numbers("gradient", LS_F32, n, LS_FILL_SIGNED, false);
    b[2] = numbers("moment1", LS_F32, adamw || op->momentum ? n : 0, LS_FILL_SIGNED, true);
    b[3] = numbers("moment2", LS_F32, adamw ? n : 0, LS_FILL_UNIT, true);
    b[4] = numbers("weights", op->output, op->output == LS_BF16 ? n : 0, LS_FILL_NOTHING, true);
    b[5] = others("block_decay", 1, n / LS_BLOCK, LS_FILL_FLAGS);
    b[6] = others("control", sizeof(LsStepControl), 1, LS_FILL_CONTROL);
    return 7;
}

static size_t tree_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    for (size_t i = 0; i < op->depth; i++)
        b[i] = numbers("input", LS_F32, op->columns, LS_FILL_SIGNED, false);
    b[0].output = op->in_place;
    b[op->depth] = numbers("output", LS_F32, op->in_place ? 0 : op->columns, LS_FILL_NOTHING, true);
    return op->depth + 1;
}

// Two inputs of one type and a result that may replace the first.
static size_t pair_buffers(const LsOpCase *op, LsOpBuffer *b)
{
    size_t n = op->rows * op->columns;
    b[0] = numbers("first", op->type, n, LS_FILL_SIGNED, op->in_place);
    if (op->kind == LS_OP_DROPOUT)
        b[1] = others("positions", 8, op->rows, LS_FILL_POSITIONS);
    else
        b[1] = numbers("second", op->type, n, LS_FILL_SIGNED, false);
    b[2] = numbers("result", op->type, op->in_place ? 0 : n, LS_FILL_NOTHING, true);
    return 3;
}

size_t ls_op_buffers(const LsOpCase *op, LsOpBuffer b[LS_OP_BUFFERS])
{
    size_t n = op->rows * op->columns;
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
    case LS_OP_CAST:
        b[0] = numbers("from", op->type, n, LS_FILL_SIGNED, false);
        b[1] = numbers("to", op->output, n, LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_NORMALIZE:
        b[0] = numbers("x", op->type, n, op->type == LS_U8 ? LS_FILL_BYTES : LS_FILL_SIGNED, false);
        b[1] = numbers("shift", LS_F32, op->uniform ? 1 : op->columns, LS_FILL_SIGNED, false);
        b[2] = numbers("scale", LS_F32, op->uniform ? 1 : op->columns, LS_FILL_POSITIVE, false);
        b[3] = numbers("y", op->output, n, LS_FILL_NOTHING, true);
        return 4;
    case LS_OP_BIAS_GRADIENT:
        b[0] = numbers("dy", op->type, n, LS_FILL_SIGNED, false);
        b[1] = numbers("db", LS_F32, op->columns, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_SUM:
        b[0] = numbers("x", LS_F32, n, LS_FILL_SIGNED, false);
        b[1] = numbers("y", LS_F32, 1, op->accumulate ? LS_FILL_SIGNED : LS_FILL_NOTHING, true);
        return 2;
    case LS_OP_BLOCK_SQUARES:
        b[0] = numbers("x", LS_F32, n, LS_FILL_SIGNED, false);
        b[1] = numbers("sums", LS_F32, (n + LS_BLOCK - 1) / LS_BLOCK, LS_FILL_NOTHING, true);
        return 2;
    default:
        return pair_buffers(op, b);
    }
}

static float number_for(LsOpFill fill, LsRngKey key, size_t i)
{
    float uniform = ls_rng_uniform(key, 0, i);
    if (fill == LS_FILL_SIGNED)
        return 8.0f * uniform - 4.0f;
    return uniform + (fill == LS_FILL_POSITIVE ? 0.5f : 0.0f);
}

static void fill_element(const LsOpBuffer *buffer, LsRngKey key, size_t i, void *image)
{
    switch (buffer->fill) {
    case LS_FILL_NOTHING:
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
        ((LsStepControl *)image)[i] = (LsStepControl){.step = 8,
            .updates = 7,
            .learning_rate = 0.05f,
            .gradient_factor = 0.75f,
            .bias_correction1 = 0.52f,
            .bias_correction2 = 0.007f,
            .loss_scale = 1.0f};
        return;
    default:
        if (buffer->type == LS_F32)
            ((float *)image)[i] = number_for(buffer->fill, key, i);
        else
            ((uint16_t *)image)[i] = ls_f32_to_bf16(number_for(buffer->fill, key, i));
    }
}

double ls_op_number(const void *array, LsDtype type, size_t i)
{
    return type == LS_F32 ? (double)((const float *)array)[i]
                          : (double)ls_bf16_to_f32(((const uint16_t *)array)[i]);
}

// ---- Runs -----------------------------------------------------------------------------------------------

static LsStatus open_buffer(LsOpRun *run, size_t i, size_t shift)
{
    const LsOpBuffer *buffer = &run->buffers[i];
    if (buffer->count == 0)
        return LS_OK;
    LS_TRY(ls_memory_allocate(buffer->count * buffer->element, &run->image[i]));
    LsRngKey key = ls_rng_key(i + 1, (uint32_t)run->op->kind);
    for (size_t e = 0; e < buffer->count; e++)
        fill_element(buffer, key, e, run->image[i]);
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
