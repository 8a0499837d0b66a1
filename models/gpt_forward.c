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

// The tokens that a pass computes: rows [first, first + rows) of the activations. All of a batch, or one more
// of a window whose earlier ones have been computed.
typedef struct Pass {
    const void *weights;
    const LsBatch *batch;
    size_t first, rows;
    size_t windows, window; // that attention looks at
} Pass;

static Pass pass_of_batch(const LsGpt *gpt, const void *weights, const LsBatch *batch)
{
    return (Pass){.weights = weights,
        .batch = batch,
        .rows = batch->rows * gpt->window,
        .windows = batch->rows,
        .window = gpt->window};
}

// The pass's rows of an activation; NULL stays NULL.
static void *rows_of(const LsGpt *gpt, const Pass *pass, void *activation, size_t columns)
{
    return activation ? ls_gpt_element(gpt, activation, pass->first * columns) : NULL;
}

static LsStatus embed(LsGpt *gpt, const Pass *pass)
{
    bool alone = pass->first > 0; // one token, at place `first`
    void *stream = rows_of(gpt, pass, gpt->block[0].input, gpt->width);
    LsEmbedding args = {
        .rows = pass->rows,
        .window = alone ? 1 : pass->window,
        .columns = gpt->width,
        .tokens = (const int32_t *)pass->batch->inputs + pass->first,
        .vocabulary = gpt->base.shape.vocabulary,
        .table = ls_gpt_at(gpt, pass->weights, gpt->tokens),
        .positions = ls_gpt_at(gpt, pass->weights, gpt->positions + pass->first * gpt->width),
        .y = stream,
        .type = gpt->type,
    };
    LS_TRY(gpt->base.device->ops->embedding(gpt->base.device, &args));
    return gpt->dropped ? ls_gpt_drop(gpt, LS_GPT_DROP_EMBEDDING, pass->batch, stream, stream) : LS_OK;
}

// sum = x + branch (NULL: x), normalised.
static LsStatus normalize(
    LsGpt *gpt, const LsGptNorm *norm, const Pass *pass, void *x, void *branch, void *sum)
{
    LsLayerNorm args = {
        .rows = pass->rows,
        .columns = gpt->width,
        .x = rows_of(gpt, pass, x, gpt->width),
        .branch = rows_of(gpt, pass, branch, gpt->width),
        .sum = rows_of(gpt, pass, sum, gpt->width),
        .weight = ls_gpt_at(gpt, pass->weights, norm->layer.weight),
        .bias = ls_gpt_at(gpt, pass->weights, norm->layer.bias),
        .y = rows_of(gpt, pass, norm->output, gpt->width),
        .mean = norm->mean + pass->first,
        .rstd = norm->rstd + pass->first,
        .type = gpt->type,
    };
    return gpt->base.device->ops->layer_norm(gpt->base.device, &args);
}

// y = x W^T + b; with `before`, y = GELU of it and `before` keeps it.
static LsStatus apply(LsGpt *gpt, const LsGptLayer *layer, const Pass *pass, void *x, void *y, void *before)
{
    LsMatmul product = {
        .m = pass->rows,
        .n = layer->out,
        .k = layer->in,
        .transpose_b = true,
        .a = rows_of(gpt, pass, x, layer->in),
        .b = ls_gpt_at(gpt, pass->weights, layer->weight),
        .input_type = gpt->type,
        .c = rows_of(gpt, pass, y, layer->out),
        .output_type = gpt->type,
        .bias = ls_gpt_at(gpt, pass->weights, layer->bias),
        .activation = before ? LS_GELU : LS_IDENTITY,
        .pre_activation = rows_of(gpt, pass, before, layer->out),
    };
    return gpt->base.device->ops->matmul(gpt->base.device, &product);
}

// What leads back into the residual stream, with dropout.
static LsStatus apply_branch(LsGpt *gpt, const LsGptLayer *layer, const Pass *pass, void *x, uint32_t number)
{
    LS_TRY(apply(gpt, layer, pass, x, gpt->branch, NULL));
    return gpt->dropped ? ls_gpt_drop(gpt, number, pass->batch, gpt->branch, gpt->branch) : LS_OK;
}

static LsStatus attend(LsGpt *gpt, const LsGptBlock *block, const Pass *pass)
{
    LsAttention args = {
        .windows = pass->windows,
        .window = pass->window,
        .heads = gpt->heads,
        .size = gpt->width / gpt->heads,
        .first = pass->first,
        .qkv = block->projected,
        .out = block->attended,
        .log_sum = block->log_sum,
        .type = gpt->type,
    };
    return gpt->base.device->ops->attention(gpt->base.device, &args);
}

// From the first normalisation's output to what the attention adds to the stream.
static LsStatus forward_attention(LsGpt *gpt, size_t l, const Pass *pass)
{
    LsGptBlock *block = &gpt->block[l];
    LS_TRY(apply(gpt, &block->qkv, pass, block->norm1.output, block->projected, NULL));
    LS_TRY(attend(gpt, block, pass));
    return apply_branch(gpt, &block->projection, pass, block->attended, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l);
}

// From the stream between attention and MLP to the MLP's hidden values.
static LsStatus forward_hidden(LsGpt *gpt, size_t l, const Pass *pass)
{
    LsGptBlock *block = &gpt->block[l];
    return apply(gpt, &block->up, pass, block->norm2.output, block->hidden, block->before);
}

static LsStatus forward_block(LsGpt *gpt, size_t l, const Pass *pass)
{
    LsGptBlock *block = &gpt->block[l];
    LS_TRY(l == 0 ? normalize(gpt, &block->norm1, pass, block->input, NULL, NULL)
                  : normalize(gpt, &block->norm1, pass, gpt->block[l - 1].middle, gpt->branch, block->input));
    LS_TRY(forward_attention(gpt, l, pass));
    LS_TRY(normalize(gpt, &block->norm2, pass, block->input, gpt->branch, block->middle));
    LS_TRY(forward_hidden(gpt, l, pass));
    return apply_branch(gpt, &block->down, pass, block->hidden, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l + 1);
}

static LsStatus forward(LsGpt *gpt, const Pass *pass)
{
    LS_TRY(ls_model_need(&gpt->base, gpt->block[0].norm1.layer.weight));
    LS_TRY(embed(gpt, pass));
    for (size_t l = 0; l < gpt->blocks; l++) {
        bool last = l + 1 == gpt->blocks;
        const LsGptNorm *next = last ? &gpt->norm : &gpt->block[l + 1].norm1;
        LS_TRY(ls_model_need(&gpt->base, next->layer.weight));
        LS_TRY(forward_block(gpt, l, pass));
    }
    gpt->held = gpt->blocks - 1;
    LS_TRY(ls_model_need(&gpt->base, gpt->base.parameters.blocks * LS_BLOCK));
    return normalize(gpt, &gpt->norm, pass, gpt->block[gpt->held].middle, gpt->branch, gpt->stream);
}

LsStatus ls_gpt_forward(LsModel *model, const void *weights, const LsBatch *batch, bool train)
{
    LsGpt *gpt = (LsGpt *)model;
    gpt->weights = weights;
    gpt->dropped = train && gpt->dropout > 0;
    Pass pass = pass_of_batch(gpt, weights, batch);
    return forward(gpt, &pass);
}

// What each block keeps of the earlier tokens, their keys and values, is where it was computed.
LsStatus ls_gpt_step(LsModel *model, const void *weights, const LsBatch *batch, size_t place)
{
    LsGpt *gpt = (LsGpt *)model;
    if (batch->rows != 1 || place == 0 || place >= gpt->window || gpt->recompute == LS_RECOMPUTE_BLOCK)
        return LS_FAIL(
            LS_INTERNAL, "no step to token %zu of %zu windows of %zu", place, batch->rows, gpt->window);
    gpt->weights = weights;
    gpt->dropped = false;
    Pass pass = {
        .weights = weights, .batch = batch, .first = place, .rows = 1, .windows = 1, .window = place + 1};
    return forward(gpt, &pass);
}

// The same ops with the same inputs, so the same bits. A normalisation of the stored sum is that of the sum:
// both look at the rounded one. GELU is recomputed with the product in front of it, since a device may apply
// it to the product's sums before they are rounded.
LsStatus ls_gpt_recompute(LsGpt *gpt, size_t l, const void *weights, const LsBatch *batch)
{
    LsGptBlock *block = &gpt->block[l];
    Pass pass = pass_of_batch(gpt, weights, batch);
    if (gpt->recompute == LS_RECOMPUTE_NONE || gpt->held == l)
        return LS_OK;
    gpt->held = l;
    LS_TRY(normalize(gpt, &block->norm1, &pass, block->input, NULL, NULL));
    if (gpt->recompute == LS_RECOMPUTE_BLOCK) {
        LS_TRY(forward_attention(gpt, l, &pass));
        LS_TRY(normalize(gpt, &block->norm2, &pass, block->input, gpt->branch, block->middle));
    } else {
        LS_TRY(normalize(gpt, &block->norm2, &pass, block->middle, NULL, NULL));
    }
    return forward_hidden(gpt, l, &pass);
}
