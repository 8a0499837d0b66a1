// The output head of the GPT: logits against the token table and cross-entropy, a chunk of tokens at a time,
// so that the logits of a whole microbatch never exist. The gradient takes the logits' place.
//
// The loss of a sample is the mean over its window's tokens.
#include "gpt.h"

// logits = h wte^T. The padding's rows of the table are zero, and adding a huge negative number makes its
// probability, and so its gradient, an exact zero.
static LsStatus compute_logits(
    LsGpt *gpt, const void *weights, size_t first, size_t count, LsDtype output_type)
{
    LsMatmul product = {
        .m = count,
        .n = gpt->vocabulary,
        .k = gpt->width,
        .transpose_b = true,
        .a = ls_gpt_element(gpt, gpt->norm.output, first * gpt->width),
        .b = ls_gpt_at(gpt, weights, gpt->tokens),
        .input_type = gpt->type,
        .c = gpt->wide,
        .output_type = output_type,
        .bias = gpt->padding,
    };
    return gpt->base.device->ops->matmul(gpt->base.device, &product);
}

static LsStatus compute_losses(LsGpt *gpt, const LsBatch *batch, size_t first, size_t count, bool gradient)
{
    LsLossArgs args = {
        .rows = count,
        .columns = gpt->vocabulary,
        .outputs = gpt->wide,
        .type = gpt->type,
        .labels = batch->labels + first,
        .gradient_scale = gpt->loss.gradient_scale / (float)gpt->window,
        .loss_scale = gpt->loss.loss_scale,
        .row_loss = gpt->token_loss + first,
        .gradient = gradient ? gpt->wide : NULL,
    };
    return gpt->base.device->ops->cross_entropy(gpt->base.device, &args);
}

// From the tokens' losses to those of the windows, and their sum.
static LsStatus combine_losses(LsGpt *gpt, const LsBatch *batch)
{
    LsDevice *device = gpt->base.device;
    float *rows = gpt->loss.rows ? gpt->loss.rows : gpt->window_loss + gpt->base.max_rows;
    if (!gpt->loss.rows && !gpt->loss.sum)
        return LS_OK;
    for (size_t r = 0; r < batch->rows; r++) {
        LsSum sum = {.n = gpt->window, .x = gpt->token_loss + r * gpt->window, .y = gpt->window_loss + r};
        LS_TRY(device->ops->sum(device, &sum));
    }
    LsNormalize divide = {
        .rows = batch->rows,
        .columns = 1,
        .x = gpt->window_loss,
        .x_type = LS_F32,
        .shift = gpt->share,
        .scale = gpt->share + 1,
        .period = 1,
        .y = rows,
        .y_type = LS_F32,
    };
    LS_TRY(device->ops->normalize(device, &divide));
    if (!gpt->loss.sum)
        return LS_OK;
    LsSum total = {.n = batch->rows, .x = rows, .y = gpt->loss.sum, .accumulate = true};
    return device->ops->sum(device, &total);
}

// Chunks of equal size but for the last one; the batch's rows alone decide them.
static size_t chunk_of(const LsGpt *gpt, size_t rows, size_t first)
{
    return rows - first < gpt->chunk ? rows - first : gpt->chunk;
}

LsStatus ls_gpt_loss(LsModel *model, const LsBatch *batch, float gradient_scale, const float *loss_scale,
    float *loss_sum, float *row_loss)
{
    LsGpt *gpt = (LsGpt *)model;
    size_t rows = batch->rows * gpt->window;
    gpt->loss.gradient_scale = gradient_scale;
    gpt->loss.loss_scale = loss_scale;
    gpt->loss.sum = loss_sum;
    gpt->loss.rows = row_loss;
    if (gradient_scale != 0)
        return LS_OK;
    for (size_t first = 0; first < rows; first += gpt->chunk) {
        size_t count = chunk_of(gpt, rows, first);
        LS_TRY(compute_logits(gpt, gpt->weights, first, count, gpt->type));
        LS_TRY(compute_losses(gpt, batch, first, count, false));
    }
    return combine_losses(gpt, batch);
}

// dwte (+)= dlogits^T h, dh = dlogits wte.
static LsStatus chunk_backward(
    LsGpt *gpt, const void *weights, size_t first, size_t count, float *gradients, bool accumulate)
{
    const LsDeviceOps *ops = gpt->base.device->ops;
    LsMatmul table = {
        .m = gpt->vocabulary,
        .n = gpt->width,
        .k = count,
        .transpose_a = true,
        .a = gpt->wide,
        .b = ls_gpt_element(gpt, gpt->norm.output, first * gpt->width),
        .input_type = gpt->type,
        .c = ls_model_gradient(&gpt->base, gradients, gpt->tokens),
        .output_type = LS_F32,
        .accumulate = accumulate,
    };
    LsMatmul below = {
        .m = count,
        .n = gpt->width,
        .k = gpt->vocabulary,
        .a = gpt->wide,
        .b = ls_gpt_at(gpt, weights, gpt->tokens),
        .input_type = gpt->type,
        .c = ls_gpt_element(gpt, gpt->dother, first * gpt->width),
        .output_type = gpt->type,
    };
    LS_TRY(ops->matmul(gpt->base.device, &table));
    return ops->matmul(gpt->base.device, &below);
}

LsStatus ls_gpt_head_backward(
    LsGpt *gpt, const void *weights, const LsBatch *batch, float *gradients, bool accumulate)
{
    size_t rows = batch->rows * gpt->window;
    for (size_t first = 0; first < rows; first += gpt->chunk) {
        size_t count = chunk_of(gpt, rows, first);
        LS_TRY(compute_logits(gpt, weights, first, count, gpt->type));
        LS_TRY(compute_losses(gpt, batch, first, count, true));
        LS_TRY(chunk_backward(gpt, weights, first, count, gradients, accumulate || first > 0));
    }
    return combine_losses(gpt, batch);
}

LsStatus ls_gpt_next(LsModel *model, size_t row, size_t place, float *logits)
{
    LsGpt *gpt = (LsGpt *)model;
    const LsDeviceOps *ops = model->device->ops;
    LS_TRY(compute_logits(gpt, gpt->weights, row * gpt->window + place, 1, LS_F32));
    LS_TRY(ops->copy_out(model->device, logits, gpt->wide, model->shape.vocabulary * sizeof *logits));
    return ops->synchronize(model->device);
}
