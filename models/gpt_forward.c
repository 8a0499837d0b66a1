// Forward pass of the GPT. A block's output projections write to `branch`, and the normalisation that follows
// adds it to the residual stream.
#include "gpt.h"

const void *ls_gpt_at(const LsGpt *gpt, const void *weights, size_t element)
{
    return (const char *)weights + element * ls_dtype_size(gpt->type);
}

void *ls_gpt_element(const LsGpt *gpt, const void *activation, size_t element)
{
    return (char *)activation + element * ls_dtype_size(gpt->type);
}

LsStatus ls_gpt_drop(const LsGpt *gpt, uint32_t number, const LsBatch *batch, const void *x, void *y)
{
    LsDropout args = {
        .rows = batch->rows * gpt->window,
        .columns = gpt->width,
        .x = x,
        .y = y,
        .type = gpt->type,
        .rate = gpt->dropout,
        .seed = gpt->seed,
        .purpose = LS_RNG_DROPOUT + number,
        .positions = batch->positions,
        .rows_per_position = gpt->window,
    };
    return gpt->base.device->ops->dropout(gpt->base.device, &args);
}

static LsStatus embed(LsGpt *gpt, const void *weights, const LsBatch *batch)
{
    void *stream = gpt->block[0].input;
    LsEmbedding args = {
        .rows = batch->rows * gpt->window,
        .window = gpt->window,
        .columns = gpt->width,
        .tokens = batch->inputs,
        .vocabulary = gpt->base.shape.vocabulary,
        .table = ls_gpt_at(gpt, weights, gpt->tokens),
        .positions = ls_gpt_at(gpt, weights, gpt->positions),
        .y = stream,
        .type = gpt->type,
    };
    LS_TRY(gpt->base.device->ops->embedding(gpt->base.device, &args));
    return gpt->dropped ? ls_gpt_drop(gpt, LS_GPT_DROP_EMBEDDING, batch, stream, stream) : LS_OK;
}

// sum = x + branch (NULL: x), normalised.
static LsStatus normalize(LsGpt *gpt, const LsGptNorm *norm, const void *weights, size_t rows, const void *x,
    const void *branch, void *sum)
{
    LsLayerNorm args = {
        .rows = rows,
        .columns = gpt->width,
        .x = x,
        .branch = branch,
        .sum = sum,
        .weight = ls_gpt_at(gpt, weights, norm->layer.weight),
        .bias = ls_gpt_at(gpt, weights, norm->layer.bias),
        .y = norm->output,
        .mean = norm->mean,
        .rstd = norm->rstd,
        .type = gpt->type,
    };
    return gpt->base.device->ops->layer_norm(gpt->base.device, &args);
}

// y = x W^T + b; with `before`, y = GELU of it and `before` keeps it.
static LsStatus apply(LsGpt *gpt, const LsGptLayer *layer, const void *weights, size_t rows, const void *x,
    void *y, void *before)
{
    LsMatmul product = {
        .m = rows,
        .n = layer->out,
        .k = layer->in,
        .transpose_b = true,
        .a = x,
        .b = ls_gpt_at(gpt, weights, layer->weight),
        .input_type = gpt->type,
        .c = y,
        .output_type = gpt->type,
        .bias = ls_gpt_at(gpt, weights, layer->bias),
        .activation = before ? LS_GELU : LS_IDENTITY,
        .pre_activation = before,
    };
    return gpt->base.device->ops->matmul(gpt->base.device, &product);
}

// What leads back into the residual stream, with dropout.
static LsStatus apply_branch(LsGpt *gpt, const LsGptLayer *layer, const void *weights, const LsBatch *batch,
    const void *x, uint32_t number)
{
    LS_TRY(apply(gpt, layer, weights, batch->rows * gpt->window, x, gpt->branch, NULL));
    return gpt->dropped ? ls_gpt_drop(gpt, number, batch, gpt->branch, gpt->branch) : LS_OK;
}

static LsStatus attend(LsGpt *gpt, const LsGptBlock *block, const LsBatch *batch)
{
    LsAttention args = {
        .windows = batch->rows,
        .window = gpt->window,
        .heads = gpt->heads,
        .size = gpt->width / gpt->heads,
        .qkv = block->projected,
        .out = block->attended,
        .log_sum = block->log_sum,
        .type = gpt->type,
    };
    return gpt->base.device->ops->attention(gpt->base.device, &args);
}

// From the first normalisation's output to what the attention adds to the stream.
static LsStatus forward_attention(LsGpt *gpt, size_t l, const void *weights, const LsBatch *batch)
{
    LsGptBlock *block = &gpt->block[l];
    size_t rows = batch->rows * gpt->window;
    LS_TRY(apply(gpt, &block->qkv, weights, rows, block->norm1.output, block->projected, NULL));
    LS_TRY(attend(gpt, block, batch));
    return apply_branch(
        gpt, &block->projection, weights, batch, block->attended, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l);
}

// From the stream between attention and MLP to the MLP's hidden values.
static LsStatus forward_hidden(LsGpt *gpt, size_t l, const void *weights, size_t rows)
{
    LsGptBlock *block = &gpt->block[l];
    return apply(gpt, &block->up, weights, rows, block->norm2.output, block->hidden, block->before);
}

static LsStatus forward_block(LsGpt *gpt, size_t l, const void *weights, const LsBatch *batch)
{
    LsGptBlock *block = &gpt->block[l];
    size_t rows = batch->rows * gpt->window;
    LS_TRY(l == 0 ? normalize(gpt, &block->norm1, weights, rows, block->input, NULL, NULL)
                  : normalize(gpt, &block->norm1, weights, rows, gpt->block[l - 1].middle, gpt->branch,
                        block->input));
    LS_TRY(forward_attention(gpt, l, weights, batch));
    LS_TRY(normalize(gpt, &block->norm2, weights, rows, block->input, gpt->branch, block->middle));
    LS_TRY(forward_hidden(gpt, l, weights, rows));
    return apply_branch(
        gpt, &block->down, weights, batch, block->hidden, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l + 1);
}

LsStatus ls_gpt_forward(LsModel *model, const void *weights, const LsBatch *batch, bool train)
{
    LsGpt *gpt = (LsGpt *)model;
    gpt->weights = weights;
    gpt->dropped = train && gpt->dropout > 0;
    LS_TRY(embed(gpt, weights, batch));
    for (size_t l = 0; l < gpt->blocks; l++)
        LS_TRY(forward_block(gpt, l, weights, batch));
    gpt->held = gpt->blocks - 1;
    return normalize(gpt, &gpt->norm, weights, batch->rows * gpt->window, gpt->block[gpt->held].middle,
        gpt->branch, gpt->stream);
}

// The same ops with the same inputs, so the same bits. A normalisation of the stored sum is that of the sum:
// both look at the rounded one. GELU is recomputed with the product in front of it, since a device may apply
// it to the product's sums before they are rounded.
LsStatus ls_gpt_recompute(LsGpt *gpt, size_t l, const void *weights, const LsBatch *batch)
{
    LsGptBlock *block = &gpt->block[l];
    size_t rows = batch->rows * gpt->window;
    if (gpt->recompute == LS_RECOMPUTE_NONE || gpt->held == l)
        return LS_OK;
    gpt->held = l;
    LS_TRY(normalize(gpt, &block->norm1, weights, rows, block->input, NULL, NULL));
    if (gpt->recompute == LS_RECOMPUTE_BLOCK) {
        LS_TRY(forward_attention(gpt, l, weights, batch));
        LS_TRY(normalize(gpt, &block->norm2, weights, rows, block->input, gpt->branch, block->middle));
    } else {
        LS_TRY(normalize(gpt, &block->norm2, weights, rows, block->middle, NULL, NULL));
    }
    return forward_hidden(gpt, l, weights, rows);
}
