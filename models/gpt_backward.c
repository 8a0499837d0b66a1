// Backward pass of the GPT, from the head to the embedding. `dstream` holds the gradient of the residual
// stream; each normalisation's backward pass adds to it what came through its branch.
#include "gpt.h"

// The way in which gradients go.
typedef struct Backward {
    LsGpt *gpt;
    const void *weights;
    const LsBatch *batch;
    size_t rows; // tokens
    float *gradients;
    bool accumulate;
    LsGradientsReady ready;
    void *context;
} Backward;

static LsStatus finished(const Backward *b, size_t first)
{
    return b->ready ? b->ready(b->context, first) : LS_OK;
}

// dW (+)= dy^T x, db (+)= column sums of dy.
static LsStatus layer_parameters(const Backward *b, const LsGptLayer *layer, const void *dy, const void *x)
{
    LsDevice *device = b->gpt->base.device;
    LsMatmul product = {
        .m = layer->out,
        .n = layer->in,
        .k = b->rows,
        .transpose_a = true,
        .a = dy,
        .b = x,
        .input_type = b->gpt->type,
        .c = ls_model_gradient(&b->gpt->base, b->gradients, layer->weight),
        .output_type = LS_F32,
        .accumulate = b->accumulate,
        .bias_gradient = ls_model_gradient(&b->gpt->base, b->gradients, layer->bias),
    };
    LS_TRY(device->ops->matmul(device, &product));
    return finished(b, layer->weight);
}

// dx = dy W, through GELU's derivative at `before` when that is not NULL.
static LsStatus layer_input(
    const Backward *b, const LsGptLayer *layer, const void *dy, void *dx, const void *before)
{
    LsDevice *device = b->gpt->base.device;
    LsMatmul product = {
        .m = b->rows,
        .n = layer->in,
        .k = layer->out,
        .a = dy,
        .b = ls_gpt_at(b->gpt, b->weights, layer->weight),
        .input_type = b->gpt->type,
        .c = dx,
        .output_type = b->gpt->type,
        .backward = before ? LS_GELU : LS_IDENTITY,
        .saved = before,
    };
    return device->ops->matmul(device, &product);
}

// dstream = residual + what comes through the normalisation of x from gpt->dother.
static LsStatus norm_backward(const Backward *b, const LsGptNorm *norm, const void *x, const void *residual)
{
    LsGpt *gpt = b->gpt;
    LsLayerNormBackward args = {
        .rows = b->rows,
        .columns = gpt->width,
        .x = x,
        .dy = gpt->dother,
        .weight = ls_gpt_at(gpt, b->weights, norm->layer.weight),
        .mean = norm->mean,
        .rstd = norm->rstd,
        .residual = residual,
        .dx = gpt->dstream,
        .type = gpt->type,
        .dweight = ls_model_gradient(&b->gpt->base, b->gradients, norm->layer.weight),
        .dbias = ls_model_gradient(&b->gpt->base, b->gradients, norm->layer.bias),
        .accumulate = b->accumulate,
        .scratch = gpt->scratch,
    };
    LS_TRY(gpt->base.device->ops->layer_norm_backward(gpt->base.device, &args));
    return finished(b, norm->layer.weight);
}

// The gradient of what a branch gave to the stream: behind dropout, in gpt->branch.
static LsStatus branch_gradient(const Backward *b, uint32_t number, const void **out)
{
    LsGpt *gpt = b->gpt;
    *out = gpt->dropped ? gpt->branch : gpt->dstream;
    return gpt->dropped ? ls_gpt_drop(gpt, number, b->batch, gpt->dstream, gpt->branch) : LS_OK;
}

static LsStatus mlp_backward(const Backward *b, size_t l)
{
    LsGpt *gpt = b->gpt;
    const LsGptBlock *block = &gpt->block[l];
    const void *gradient;
    LS_TRY(branch_gradient(b, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l + 1, &gradient));
    LS_TRY(layer_parameters(b, &block->down, gradient, block->hidden));
    LS_TRY(layer_input(b, &block->down, gradient, gpt->wide, block->before));
    LS_TRY(layer_parameters(b, &block->up, gpt->wide, block->norm2.output));
    LS_TRY(layer_input(b, &block->up, gpt->wide, gpt->dother, NULL));
    return norm_backward(b, &block->norm2, block->middle, gpt->dstream);
}

static LsStatus attend_backward(const Backward *b, const LsGptBlock *block)
{
    LsGpt *gpt = b->gpt;
    LsAttentionBackward args = {
        .windows = b->batch->rows,
        .window = gpt->window,
        .heads = gpt->heads,
        .size = gpt->width / gpt->heads,
        .qkv = block->projected,
        .out = block->attended,
        .dout = gpt->dother,
        .log_sum = block->log_sum,
        .dqkv = gpt->wide,
        .type = gpt->type,
        .scratch = gpt->scratch,
    };
    return gpt->base.device->ops->attention_backward(gpt->base.device, &args);
}

static LsStatus attention_backward(const Backward *b, size_t l)
{
    LsGpt *gpt = b->gpt;
    const LsGptBlock *block = &gpt->block[l];
    const void *gradient;
    LS_TRY(branch_gradient(b, LS_GPT_DROP_BLOCK + 2 * (uint32_t)l, &gradient));
    LS_TRY(layer_parameters(b, &block->projection, gradient, block->attended));
    LS_TRY(layer_input(b, &block->projection, gradient, gpt->dother, NULL));
    LS_TRY(attend_backward(b, block));
    LS_TRY(layer_parameters(b, &block->qkv, gpt->wide, block->norm1.output));
    LS_TRY(layer_input(b, &block->qkv, gpt->wide, gpt->dother, NULL));
    return norm_backward(b, &block->norm1, block->input, gpt->dstream);
}

// Adds to the token table's gradient, which the head has begun.
static LsStatus embedding_backward(const Backward *b)
{
    LsGpt *gpt = b->gpt;
    const void *gradient;
    LS_TRY(branch_gradient(b, LS_GPT_DROP_EMBEDDING, &gradient));
    LsEmbeddingGradient args = {
        .rows = b->rows,
        .window = gpt->window,
        .columns = gpt->width,
        .tokens = b->batch->inputs,
        .vocabulary = gpt->base.shape.vocabulary,
        .dy = gradient,
        .type = gpt->type,
        .dtable = ls_model_gradient(&b->gpt->base, b->gradients, gpt->tokens),
        .dpositions = ls_model_gradient(&b->gpt->base, b->gradients, gpt->positions),
        .accumulate = b->accumulate,
        .scratch = gpt->scratch,
    };
    LS_TRY(gpt->base.device->ops->embedding_gradient(gpt->base.device, &args));
    return finished(b, 0);
}

LsStatus ls_gpt_backward(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
    bool accumulate, LsGradientsReady ready, void *context)
{
    LsGpt *gpt = (LsGpt *)model;
    const Backward b = {
        .gpt = gpt,
        .weights = weights,
        .batch = batch,
        .rows = batch->rows * gpt->window,
        .gradients = gradients,
        .accumulate = accumulate,
        .ready = ready,
        .context = context,
    };
    LS_TRY(ls_gpt_head_backward(gpt, weights, batch, gradients, accumulate));
    LS_TRY(norm_backward(&b, &gpt->norm, gpt->stream, NULL));
    for (size_t l = gpt->blocks; l-- > 0;) {
        LS_TRY(ls_gpt_recompute(gpt, l, weights, batch));
        LS_TRY(mlp_backward(&b, l));
        LS_TRY(attention_backward(&b, l));
    }
    return embedding_backward(&b);
}
