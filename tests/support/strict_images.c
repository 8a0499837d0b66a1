// Ops of image models on the strict device: what memory each may read and write.
#include "strict_state.h"

// Values of images that a convolution reads, of those that it writes, and of its filters.
typedef struct Sizes {
    size_t x, y, weights;
} Sizes;

static size_t places_of(const LsImageWindow *window)
{
    return window->rows * ls_image_places(window, window->height) * ls_image_places(window, window->width);
}

static Sizes sizes_of(const LsConvolutionShape *shape)
{
    const LsImageWindow *window = &shape->window;
    return (Sizes){window->rows * window->height * window->width * shape->in, places_of(window) * shape->out,
        shape->out * window->kernel * window->kernel * shape->in};
}

static LsStatus strict_convolution(LsDevice *device, const LsConvolution *args)
{
    const Sizes n = sizes_of(&args->shape);
    const Span spans[] = {{"x", args->x, ls_strict_bytes(args->type, n.x), false},
        {"weight", args->weight, ls_strict_bytes(args->type, n.weights), false},
        {"y", args->y, ls_strict_bytes(args->type, n.y), true}};
    RUN(device, convolution, spans, args);
}

static LsStatus strict_convolution_backward_data(LsDevice *device, const LsConvolutionBackwardData *args)
{
    const Sizes n = sizes_of(&args->shape);
    const Span spans[] = {{"dy", args->dy, ls_strict_bytes(args->type, n.y), false},
        {"weight", args->weight, ls_strict_bytes(args->type, n.weights), false},
        {"dx", args->dx, ls_strict_bytes(args->type, n.x), true}};
    RUN(device, convolution_backward_data, spans, args);
}

static LsStatus strict_convolution_backward_weights(
    LsDevice *device, const LsConvolutionBackwardWeights *args)
{
    const Sizes n = sizes_of(&args->shape);
    const Span spans[] = {{"x", args->x, ls_strict_bytes(args->type, n.x), false},
        {"dy", args->dy, ls_strict_bytes(args->type, n.y), false},
        {"dweight", args->dweight, ls_strict_bytes(LS_F32, n.weights), true},
        {"scratch", args->scratch, ls_convolution_scratch(&args->shape), true}};
    RUN(device, convolution_backward_weights, spans, args);
}

static LsStatus strict_batch_norm(LsDevice *device, const LsBatchNorm *args)
{
    size_t channels = args->channels, row = ls_strict_bytes(args->type, channels), all = args->places * row;
    const Span spans[] = {{"x", args->x, all, false}, {"gamma", args->gamma, row, false},
        {"beta", args->beta, row, false}, {"running", args->running, 2 * row, false},
        {"residual", args->residual, all, false}, {"y", args->y, all, true},
        {"mean", args->running ? NULL : args->mean, ls_strict_bytes(LS_F32, channels), true},
        {"variance", args->running ? NULL : args->variance, ls_strict_bytes(LS_F32, channels), true},
        {"scratch", args->scratch, ls_batch_norm_scratch(args->places, channels), true}};
    RUN(device, batch_norm, spans, args);
}

static LsStatus strict_batch_norm_backward(LsDevice *device, const LsBatchNormBackward *args)
{
    size_t channels = args->channels, row = ls_strict_bytes(args->type, channels), all = args->places * row;
    size_t floats = ls_strict_bytes(LS_F32, channels);
    const Span spans[] = {{"x", args->x, all, false},
        {"y", args->activation == LS_RELU ? args->y : NULL, all, false}, {"dy", args->dy, all, false},
        {"other", args->other, all, false}, {"gamma", args->gamma, row, false},
        {"mean", args->mean, floats, false}, {"variance", args->variance, floats, false},
        {"dresidual", args->dresidual, all, true}, {"dx", args->dx, all, true},
        {"dgamma", args->dgamma, floats, true}, {"dbeta", args->dbeta, floats, true},
        {"running", args->statistics ? args->running : NULL, 2 * row, false},
        {"statistics", args->statistics, 2 * floats, true},
        {"scratch", args->scratch, ls_batch_norm_scratch(args->places, channels), true}};
    RUN(device, batch_norm_backward, spans, args);
}

static LsStatus strict_max_pool(LsDevice *device, const LsMaxPool *args)
{
    size_t x = args->window.rows * args->window.height * args->window.width * args->channels;
    size_t y = places_of(&args->window) * args->channels;
    const Span spans[] = {{"x", args->x, ls_strict_bytes(args->type, x), false},
        {"y", args->y, ls_strict_bytes(args->type, y), true}, {"place", args->place, y, true}};
    RUN(device, max_pool, spans, args);
}

static LsStatus strict_max_pool_backward(LsDevice *device, const LsMaxPoolBackward *args)
{
    size_t x = args->window.rows * args->window.height * args->window.width * args->channels;
    size_t y = places_of(&args->window) * args->channels;
    const Span spans[] = {{"dy", args->dy, ls_strict_bytes(args->type, y), false},
        {"place", args->place, y, false}, {"dx", args->dx, ls_strict_bytes(args->type, x), true}};
    RUN(device, max_pool_backward, spans, args);
}

static LsStatus strict_average_pool(LsDevice *device, const LsAveragePool *args)
{
    size_t y = ls_strict_bytes(args->type, args->rows * args->channels);
    const Span spans[] = {{"x", args->x, args->places * y, false}, {"y", args->y, y, true}};
    RUN(device, average_pool, spans, args);
}

static LsStatus strict_average_pool_backward(LsDevice *device, const LsAveragePoolBackward *args)
{
    size_t y = ls_strict_bytes(args->type, args->rows * args->channels);
    const Span spans[] = {{"dy", args->dy, y, false}, {"dx", args->dx, args->places * y, true}};
    RUN(device, average_pool_backward, spans, args);
}

void ls_strict_add_image_ops(LsDeviceOps *ops)
{
    ops->convolution = strict_convolution;
    ops->convolution_backward_data = strict_convolution_backward_data;
    ops->convolution_backward_weights = strict_convolution_backward_weights;
    ops->batch_norm = strict_batch_norm;
    ops->batch_norm_backward = strict_batch_norm_backward;
    ops->max_pool = strict_max_pool;
    ops->max_pool_backward = strict_max_pool_backward;
    ops->average_pool = strict_average_pool;
    ops->average_pool_backward = strict_average_pool_backward;
}
