// GPT-2 (Radford et al., "Language models are unsupervised multitask learners", 2019): token and position
// embeddings, blocks of causal self-attention and an MLP of four times the width with GELU, each behind a
// layer normalisation and added to the residual stream, a final normalisation, and an output head that is
// tied to the token embedding.
//
// Weights are [out][in]. Initial weights are normal with deviation model.init_std (0.02 in the paper's code),
// those of the projections back into the stream init_std / sqrt(2 · blocks); biases are zero. Matrices and
// embeddings decay, biases and normalisations do not.
//
// The token table comes first in the flat buffer: head and embedding both add to its gradient, so it is the
// last to be final. It has padding rows up to a multiple of VOCABULARY_UNIT, zero and never visible.
#include "gpt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

enum {
    VOCABULARY_UNIT = 64, // what matrix products like
    LOGITS_MAX = 1 << 27, // values of the logits that exist at a time
    HEAD_TILE = 128,      // rows of a tile of matrix products, which a chunk of the head is whole ones of
};

// ---- Parameters -----------------------------------------------------------------------------------------

static LsStatus add_parameter(LsGpt *gpt, const LsParameter *parameter, size_t *offset)
{
    LsParameters *table = &gpt->base.parameters;
    LS_TRY(ls_parameters_add(table, parameter));
    *offset = table->list[table->count - 1].offset;
    return LS_OK;
}

static LsStatus add_embedding(LsGpt *gpt, const char *name, size_t rows, size_t reserved, size_t *offset)
{
    LsParameter table = {
        .dimensions = 2,
        .shape = {rows, gpt->width},
        .decay = true,
        .init = LS_INIT_NORMAL,
        .init_scale = (float)gpt->init_std,
    };
    snprintf(table.name, sizeof table.name, "%s", name);
    if (!ls_size_multiply(reserved, gpt->width, &table.reserved))
        return LS_FAIL(LS_CONFIG, "%s of %zu × %zu is too large", name, reserved, gpt->width);
    return add_parameter(gpt, &table, offset);
}

static LsStatus add_norm(LsGpt *gpt, const char *name, LsGptNorm *norm)
{
    LsParameter weight = {.dimensions = 1, .shape = {gpt->width}, .stage = true, .init = LS_INIT_ONE};
    LsParameter bias = {.dimensions = 1, .shape = {gpt->width}, .init = LS_INIT_ZERO};
    norm->layer.in = norm->layer.out = gpt->width;
    snprintf(weight.name, sizeof weight.name, "%s.weight", name);
    snprintf(bias.name, sizeof bias.name, "%s.bias", name);
    LS_TRY(add_parameter(gpt, &weight, &norm->layer.weight));
    return add_parameter(gpt, &bias, &norm->layer.bias);
}

static LsStatus add_linear(
    LsGpt *gpt, size_t l, const char *name, size_t in, size_t out, double deviation, LsGptLayer *layer)
{
    LsParameter weight = {
        .dimensions = 2,
        .shape = {out, in},
        .decay = true,
        .stage = true,
        .init = LS_INIT_NORMAL,
        .init_scale = (float)deviation,
    };
    LsParameter bias = {.dimensions = 1, .shape = {out}, .init = LS_INIT_ZERO};
    layer->in = in;
    layer->out = out;
    snprintf(weight.name, sizeof weight.name, "blocks.%zu.%s.weight", l, name);
    snprintf(bias.name, sizeof bias.name, "blocks.%zu.%s.bias", l, name);
    LS_TRY(add_parameter(gpt, &weight, &layer->weight));
    return add_parameter(gpt, &bias, &layer->bias);
}

static LsStatus add_block(LsGpt *gpt, size_t l)
{
    LsGptBlock *block = &gpt->block[l];
    size_t width = gpt->width;
    double deviation = gpt->init_std, residual = deviation / sqrt(2.0 * (double)gpt->blocks);
    char name[LS_NAME_MAX];
    snprintf(name, sizeof name, "blocks.%zu.ln1", l);
    LS_TRY(add_norm(gpt, name, &block->norm1));
    LS_TRY(add_linear(gpt, l, "attention.qkv", width, 3 * width, deviation, &block->qkv));
    LS_TRY(add_linear(gpt, l, "attention.projection", width, width, residual, &block->projection));
    snprintf(name, sizeof name, "blocks.%zu.ln2", l);
    LS_TRY(add_norm(gpt, name, &block->norm2));
    LS_TRY(add_linear(gpt, l, "mlp.up", width, 4 * width, deviation, &block->up));
    return add_linear(gpt, l, "mlp.down", 4 * width, width, residual, &block->down);
}

static LsStatus lay_out(LsGpt *gpt)
{
    LS_TRY(add_embedding(gpt, "wte", gpt->base.shape.vocabulary, gpt->vocabulary, &gpt->tokens));
    LS_TRY(add_embedding(gpt, "wpe", gpt->window, gpt->window, &gpt->positions));
    gpt->base.early_elements = gpt->base.parameters.blocks * LS_BLOCK; // both are final together, at the end
    for (size_t l = 0; l < gpt->blocks; l++)
        LS_TRY(add_block(gpt, l));
    return add_norm(gpt, "ln_f", &gpt->norm);
}

// Multiply-adds of a token: the weights of blocks and head, and for each earlier token and itself a product
// with its key and one with its value. Backward does each product twice.
static double count_flops(const LsGpt *gpt)
{
    double width = (double)gpt->width, blocks = (double)gpt->blocks, window = (double)gpt->window;
    double weights = 12 * width * width * blocks + (double)gpt->base.shape.vocabulary * width;
    double attention = 2 * width * blocks * (window + 1) / 2;
    return 6 * window * (weights + attention);
}

// ---- Padding of the vocabulary --------------------------------------------------------------------------

// A number that no logit comes near, in the compute type.
static void write_lowest(LsDtype type, void *out, size_t index)
{
    switch (type) {
    case LS_BF16:
        ((uint16_t *)out)[index] = ls_f32_to_bf16(-1e30f);
        break;
    case LS_F16:
        ((uint16_t *)out)[index] = ls_f32_to_f16(-65504.0f);
        break;
    default:
        ((float *)out)[index] = -1e30f;
        break;
    }
}

// What every device needs beside activations.
static LsStatus upload_constants(LsGpt *gpt)
{
    LsDevice *device = gpt->base.device;
    if (!device)
        return LS_OK;
    const float share[2] = {0, 1.0f / (float)gpt->window};
    LS_TRY(device->ops->copy_in(device, gpt->share, share, sizeof share));
    if (gpt->padding) {
        void *host;
        size_t bytes = gpt->vocabulary * ls_dtype_size(gpt->type);
        LS_TRY(ls_memory_allocate(bytes, &host)); // zeroed
        for (size_t v = gpt->base.shape.vocabulary; v < gpt->vocabulary; v++)
            write_lowest(gpt->type, host, v);
        LsStatus status = device->ops->copy_in(device, gpt->padding, host, bytes);
        free(host);
        LS_TRY(status);
    }
    return device->ops->synchronize(device);
}

// ---- Creation -------------------------------------------------------------------------------------------

static const void *outputs(const LsModel *model)
{
    (void)model;
    return NULL;
}

static void destroy(LsModel *model)
{
    LsGpt *gpt = (LsGpt *)model;
    if (model->device)
        ls_gpt_release(gpt);
    free(gpt->block);
    ls_parameters_free(&model->parameters);
    free(gpt);
}

static const LsModelOps gpt_ops = {
    .name = "gpt",
    .forward = ls_gpt_forward,
    .loss = ls_gpt_loss,
    .backward = ls_gpt_backward,
    .outputs = outputs,
    .step = ls_gpt_step,
    .next = ls_gpt_next,
    .destroy = destroy,
};

static LsStatus check(const LsConfig *config, const LsModel *base)
{
    if (base->shape.window > (size_t)config->model.context)
        return LS_FAIL(LS_CONFIG, "windows of %zu tokens are longer than model.context, %lld",
            base->shape.window, (long long)config->model.context);
    if (base->shape.vocabulary < 2 || base->shape.vocabulary > INT32_MAX - VOCABULARY_UNIT)
        return LS_FAIL(LS_CONFIG, "a vocabulary of %zu tokens is none", base->shape.vocabulary);
    if (config->model.width % config->model.heads != 0)
        return LS_FAIL(LS_CONFIG, "model.width is %lld, which model.heads (%lld) do not divide",
            (long long)config->model.width, (long long)config->model.heads);
    return LS_OK;
}

// Tokens whose logits exist at a time.
static size_t choose_chunk(const LsGpt *gpt, const LsConfig *config)
{
    size_t fitting = LOGITS_MAX / gpt->vocabulary;
    if (config->model.head_tokens > 0)
        return (size_t)config->model.head_tokens;
    if (fitting > HEAD_TILE)
        return fitting / HEAD_TILE * HEAD_TILE;
    return fitting > 0 ? fitting : 1;
}

static void describe(LsGpt *gpt, const LsConfig *config, const LsModel *base)
{
    gpt->base = *base;
    gpt->base.ops = &gpt_ops;
    gpt->type = base->device ? ls_device_compute_type(base->device)
                             : ls_precision_type((LsPrecision)config->runtime.precision);
    gpt->recompute = config->model.recompute;
    gpt->blocks = (size_t)config->model.layers;
    gpt->heads = (size_t)config->model.heads;
    gpt->width = (size_t)config->model.width;
    gpt->window = base->shape.window;
    gpt->vocabulary = ls_round_up(base->shape.vocabulary, VOCABULARY_UNIT);
    gpt->dropout = config->model.dropout;
    gpt->init_std = config->model.init_std;
    gpt->seed = (uint64_t)config->train.seed;
    gpt->chunk = choose_chunk(gpt, config);
}

LsStatus ls_gpt_create(const LsConfig *config, const LsModel *base, LsModel **out)
{
    LS_TRY(check(config, base));
    LsGpt *gpt = calloc(1, sizeof *gpt);
    LsGptBlock *block = calloc((size_t)config->model.layers, sizeof *block);
    if (!gpt || !block) {
        free(block);
        free(gpt);
        return LS_FAIL(LS_INTERNAL, "no memory for the model's description");
    }
    describe(gpt, config, base);
    gpt->block = block;
    LsStatus status = lay_out(gpt);
    gpt->base.flops_per_sample = count_flops(gpt);
    if (status == LS_OK)
        status = ls_gpt_reserve(gpt);
    if (status == LS_OK)
        status = upload_constants(gpt);
    if (status != LS_OK) {
        destroy(&gpt->base);
        return status;
    }
    *out = &gpt->base;
    return LS_OK;
}
