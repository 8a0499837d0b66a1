// Forward pass of the ResNet.
#include "resnet.h"

// The way forward.
typedef struct Forward {
    LsResnet *resnet;
    const void *weights;
    const LsBatch *batch;
    bool train;
} Forward;

static LsStatus convolve(const Forward *f, const LsResnetUnit *unit)
{
    LsDevice *device = f->resnet->base.device;
    LsConvolution args = {
        .shape = ls_resnet_shape(unit, f->batch),
        .x = ls_resnet_input(unit, f->batch),
        .weight = ls_resnet_at(f->resnet, f->weights, unit->weight),
        .y = unit->convolved,
        .type = f->resnet->type,
    };
    return device->ops->convolution(device, &args);
}

// residual: NULL for none.
static LsStatus normalize(const Forward *f, const LsResnetUnit *unit, const void *residual)
{
    LsDevice *device = f->resnet->base.device;
    LsBatchNorm args = {
        .places = f->batch->rows * unit->high * unit->wide,
        .channels = unit->shape.out,
        .x = unit->convolved,
        .gamma = ls_resnet_at(f->resnet, f->weights, unit->gamma),
        .beta = ls_resnet_at(f->resnet, f->weights, unit->beta),
        .running = f->train ? NULL : ls_resnet_at(f->resnet, f->weights, unit->running),
        .residual = residual,
        .activation = unit->activation,
        .y = unit->output,
        .type = f->resnet->type,
        .mean = unit->mean,
        .variance = unit->variance,
        .scratch = f->resnet->scratch,
    };
    return device->ops->batch_norm(device, &args);
}

static LsStatus run_unit(const Forward *f, const LsResnetUnit *unit, const void *residual)
{
    LS_TRY(ls_model_need(&f->resnet->base, unit->end));
    LS_TRY(convolve(f, unit));
    return normalize(f, unit, residual);
}

static LsStatus run_pool(const Forward *f)
{
    LsDevice *device = f->resnet->base.device;
    LsMaxPool args = {
        .window = f->resnet->pool,
        .channels = f->resnet->stem.shape.out,
        .x = f->resnet->stem.output,
        .y = f->resnet->pooled,
        .place = f->train ? f->resnet->pool_place : NULL,
        .type = f->resnet->type,
    };
    args.window.rows = f->batch->rows;
    return device->ops->max_pool(device, &args);
}

static LsStatus run_block(const Forward *f, LsResnetBlock *block)
{
    const void *residual = block->unit[0].input;
    if (block->projects) {
        LS_TRY(run_unit(f, &block->shortcut, NULL));
        residual = block->shortcut.output;
    }
    for (size_t u = 0; u + 1 < block->units; u++)
        LS_TRY(run_unit(f, &block->unit[u], NULL));
    return run_unit(f, ls_resnet_last(block), residual);
}

static LsStatus run_output(const Forward *f, const void *last)
{
    const LsResnet *resnet = f->resnet;
    LsDevice *device = resnet->base.device;
    LsAveragePool average = {
        .rows = f->batch->rows,
        .places = resnet->places,
        .channels = resnet->features,
        .x = last,
        .y = resnet->averaged,
        .type = resnet->type,
    };
    LsMatmul product = {
        .m = f->batch->rows,
        .n = resnet->base.shape.outputs,
        .k = resnet->features,
        .transpose_b = true,
        .a = resnet->averaged,
        .b = ls_resnet_at(resnet, f->weights, resnet->weight),
        .input_type = resnet->type,
        .c = resnet->outputs,
        .output_type = LS_F32,
        .bias = ls_resnet_at(resnet, f->weights, resnet->bias),
        .activation = LS_IDENTITY,
    };
    LS_TRY(device->ops->average_pool(device, &average));
    LS_TRY(ls_model_need(&resnet->base, resnet->base.parameters.blocks * LS_BLOCK));
    return device->ops->matmul(device, &product);
}

LsStatus ls_resnet_forward(LsModel *model, const void *weights, const LsBatch *batch, bool train)
{
    LsResnet *resnet = (LsResnet *)model;
    const Forward f = {.resnet = resnet, .weights = weights, .batch = batch, .train = train};
    LS_TRY(run_unit(&f, &resnet->stem, NULL));
    if (resnet->pools)
        LS_TRY(run_pool(&f));
    for (size_t b = 0; b < resnet->blocks; b++)
        LS_TRY(run_block(&f, &resnet->block[b]));
    return run_output(&f, ls_resnet_last(&resnet->block[resnet->blocks - 1])->output);
}
