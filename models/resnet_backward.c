// Backward pass of the ResNet, from the outputs to the stem.
//
// The gradient of a block's output comes in two parts, of what its reader's units made of it and of its
// shortcut; normalisation's backward pass adds them up. Three buffers are enough: a unit's gradient turns
// into that of its convolution where it is, that of the convolution's input goes to a free buffer, and the
// shortcut's waits in the third.
#include "resnet.h"

// The way in which gradients go.
typedef struct Backward {
    LsResnet *resnet;
    const void *weights;
    const LsBatch *batch;
    float *gradients;
    bool accumulate;
    LsGradientsReady ready;
    void *context;
} Backward;

// Parts of a gradient, by buffer, and the buffer that is free. `second` may hold none.
typedef struct Turn {
    size_t first, second, free;
    bool both;
} Turn;

static LsStatus finished(const Backward *b, size_t first)
{
    return b->ready ? b->ready(b->context, first) : LS_OK;
}

static float *gradient_of(const Backward *b, size_t offset)
{
    return ls_model_gradient(&b->resnet->base, b->gradients, offset);
}

// What batch normalisation's backward pass reads and writes of the turns' buffers.
typedef struct Parts {
    void *dy, *other, *dresidual;
} Parts;

// The gradient of the unit's convolution, to where dy is.
static LsStatus normalize(const Backward *b, const LsResnetUnit *unit, const Parts *parts)
{
    LsResnet *resnet = b->resnet;
    LsDevice *device = resnet->base.device;
    LsBatchNormBackward args = {
        .places = b->batch->rows * unit->high * unit->wide,
        .channels = unit->shape.out,
        .x = unit->convolved,
        .y = unit->output,
        .dy = parts->dy,
        .other = parts->other,
        .gamma = ls_resnet_at(resnet, b->weights, unit->gamma),
        .mean = unit->mean,
        .variance = unit->variance,
        .activation = unit->activation,
        .dresidual = parts->dresidual,
        .dx = parts->dy,
        .dgamma = gradient_of(b, unit->gamma),
        .dbeta = gradient_of(b, unit->beta),
        .running = ls_resnet_at(resnet, b->weights, unit->running),
        .statistics = gradient_of(b, unit->running),
        .statistics_weight = resnet->statistics_weight,
        .accumulate = b->accumulate,
        .type = resnet->type,
        .scratch = resnet->scratch,
    };
    return device->ops->batch_norm_backward(device, &args);
}

static LsStatus convolve_weights(const Backward *b, const LsResnetUnit *unit, const void *dy)
{
    LsDevice *device = b->resnet->base.device;
    LsConvolutionBackwardWeights args = {
        .shape = ls_resnet_shape(unit, b->batch),
        .x = ls_resnet_input(unit, b->batch),
        .dy = dy,
        .type = b->resnet->type,
        .dweight = gradient_of(b, unit->weight),
        .accumulate = b->accumulate,
        .scratch = b->resnet->scratch,
    };
    LS_TRY(device->ops->convolution_backward_weights(device, &args));
    return finished(b, unit->weight);
}

static LsStatus convolve_data(const Backward *b, const LsResnetUnit *unit, const void *dy, void *dx)
{
    LsDevice *device = b->resnet->base.device;
    LsConvolutionBackwardData args = {
        .shape = ls_resnet_shape(unit, b->batch),
        .dy = dy,
        .weight = ls_resnet_at(b->resnet, b->weights, unit->weight),
        .dx = dx,
        .type = b->resnet->type,
    };
    return device->ops->convolution_backward_data(device, &args);
}

// From the gradient of the unit's output in `dy`, which is overwritten, to that of its input in `dx`.
static LsStatus unit_backward(const Backward *b, const LsResnetUnit *unit, const Parts *parts, void *dx)
{
    LS_TRY(normalize(b, unit, parts));
    LS_TRY(convolve_weights(b, unit, parts->dy));
    return convolve_data(b, unit, parts->dy, dx);
}

static LsStatus block_backward(const Backward *b, LsResnetBlock *block, Turn *turn)
{
    void **gradient = b->resnet->gradient;
    for (size_t u = block->units; u-- > 0;) {
        Parts parts = {.dy = gradient[turn->first]};
        if (u + 1 == block->units) {
            parts.other = turn->both ? gradient[turn->second] : NULL;
            parts.dresidual = gradient[turn->second];
        }
        LS_TRY(unit_backward(b, &block->unit[u], &parts, gradient[turn->free]));
        *turn = (Turn){.first = turn->free, .second = turn->second, .free = turn->first, .both = true};
    }
    if (!block->projects)
        return LS_OK;
    const Parts parts = {.dy = gradient[turn->second]};
    LS_TRY(unit_backward(b, &block->shortcut, &parts, gradient[turn->free]));
    *turn = (Turn){.first = turn->first, .second = turn->free, .free = turn->second, .both = true};
    return LS_OK;
}

// To the gradient of the last block's output, in the first buffer.
static LsStatus output_backward(const Backward *b)
{
    LsResnet *resnet = b->resnet;
    LsDevice *device = resnet->base.device;
    size_t rows = b->batch->rows, outputs = resnet->base.shape.outputs;
    LsMatmul weights = {
        .m = outputs,
        .n = resnet->features,
        .k = rows,
        .transpose_a = true,
        .a = resnet->output_rounded,
        .b = resnet->averaged,
        .input_type = resnet->type,
        .c = gradient_of(b, resnet->weight),
        .output_type = LS_F32,
        .accumulate = b->accumulate,
        .bias_gradient = gradient_of(b, resnet->bias),
    };
    LsMatmul input = {
        .m = rows,
        .n = resnet->features,
        .k = outputs,
        .a = resnet->output_rounded,
        .b = ls_resnet_at(resnet, b->weights, resnet->weight),
        .input_type = resnet->type,
        .c = resnet->averaged_gradient,
        .output_type = resnet->type,
    };
    LsAveragePoolBackward average = {
        .rows = rows,
        .places = resnet->places,
        .channels = resnet->features,
        .dy = resnet->averaged_gradient,
        .dx = resnet->gradient[0],
        .type = resnet->type,
    };
    LS_TRY(device->ops->matmul(device, &weights));
    LS_TRY(finished(b, resnet->weight));
    LS_TRY(device->ops->matmul(device, &input));
    return device->ops->average_pool_backward(device, &average);
}

// Adds both parts, and takes them through the pool; the result is all in the first.
static LsStatus pool_backward(const Backward *b, Turn *turn)
{
    LsResnet *resnet = b->resnet;
    LsDevice *device = resnet->base.device;
    void *sum = resnet->gradient[turn->first];
    LsAdd add = {
        .n = b->batch->rows * resnet->pooled_places * resnet->stem.shape.out,
        .a = sum,
        .b = resnet->gradient[turn->second],
        .y = sum,
        .type = resnet->type,
    };
    LsMaxPoolBackward pool = {
        .window = resnet->pool,
        .channels = resnet->stem.shape.out,
        .dy = sum,
        .place = resnet->pool_place,
        .dx = resnet->gradient[turn->free],
        .type = resnet->type,
    };
    pool.window.rows = b->batch->rows;
    LS_TRY(device->ops->add(device, &add));
    LS_TRY(device->ops->max_pool_backward(device, &pool));
    *turn = (Turn){.first = turn->free, .second = turn->second, .free = turn->first, .both = false};
    return LS_OK;
}

static LsStatus stem_backward(const Backward *b, Turn *turn)
{
    LsResnet *resnet = b->resnet;
    if (resnet->pools)
        LS_TRY(pool_backward(b, turn));
    const Parts parts = {
        .dy = resnet->gradient[turn->first],
        .other = turn->both ? resnet->gradient[turn->second] : NULL,
    };
    LS_TRY(normalize(b, &resnet->stem, &parts));
    return convolve_weights(b, &resnet->stem, parts.dy);
}

LsStatus ls_resnet_backward(LsModel *model, const void *weights, const LsBatch *batch, float *gradients,
    bool accumulate, LsGradientsReady ready, void *context)
{
    LsResnet *resnet = (LsResnet *)model;
    const Backward b = {
        .resnet = resnet,
        .weights = weights,
        .batch = batch,
        .gradients = gradients,
        .accumulate = accumulate,
        .ready = ready,
        .context = context,
    };
    Turn turn = {.first = 0, .second = 1, .free = 2, .both = false};
    LS_TRY(output_backward(&b));
    for (size_t l = resnet->blocks; l-- > 0;)
        LS_TRY(block_backward(&b, &resnet->block[l], &turn));
    return stem_backward(&b, &turn);
}
